"""Steps of a set-up command: run OVS' and OVN's own tools and say what changes.

A command first looks (`run`, `rows`), then changes what differs (`Steps.change`).
With ``--dry-run`` the changes are printed and not made.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from ovn_docker import printable
from ovn_docker.cli.output import say
from ovn_docker.errors import OvnDockerError, TimedOut, Unavailable
from ovn_docker.host.environment import environment

TOOL_TIMEOUT = 60.0
"""Seconds that one command of OVS or OVN may take; starting a daemon takes a tenth of one."""

PACKAGES = {
    "ovs": "openvswitch-switch",
    "ovn-northd": "ovn-central",
    "ovn": "ovn-host",
    "openssl": "openssl",
    "nft": "nftables",
    "ip": "iproute2",
    "ss": "iproute2",
}
"""Debian package of a tool, by the longest prefix of its name that is listed."""

REMOTE_DATABASES = ("OVN_NB_DB", "OVN_SB_DB", "OVN_NB_DAEMON", "OVN_SB_DAEMON")
"""Variables that turn ovn-nbctl(8) and ovn-sbctl(8) to other databases than this machine's."""

_DIRECTORIES = ("OVS_RUNDIR", "OVN_RUNDIR")


class StepFailed(OvnDockerError):
    """A command of OVS, OVN or the system ended with an error."""


class Steps:
    """Runs the commands of one invocation.

    Args:
        dry_run: print the commands that change something, run none of them.

    """

    def __init__(self, *, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.changed = False

    def change(self, what: str, *argv: str) -> None:
        """Says what changes (an imperative, no full stop) and the command that does it, and runs it.

        Raises:
            StepFailed: it ended with an error.
            TimedOut: it did not end within TOOL_TIMEOUT.
            Unavailable: the program is not installed, or cannot be run.

        """
        self.note(what, printable.command(*addressed(argv)))
        if not self.dry_run:
            run(argv)

    def note(self, what: str, command: str, *, first: Iterable[str] = ()) -> None:
        """Says a change that the caller makes itself, with a command that a user could type for it.

        *first*: what the same command changes besides, a line each.
        """
        self.changed = True
        for line in (*first, what):
            say(f"{'would ' if self.dry_run else ''}{line}")
        say(f"    $ {command}", flush=True)

    def wait(self, what: str, ready: Callable[[], bool], *, seconds: float, hint: str) -> None:
        """Waits until `ready`, at most `seconds`; not at all in a dry run.

        Raises:
            TimedOut: `what` did not happen; `hint` says what to do.

        """
        deadline = time.monotonic() + seconds
        while not self.dry_run and not ready():
            if time.monotonic() > deadline:
                raise TimedOut(f"{what} did not happen within {seconds:g} seconds; {hint}")
            time.sleep(0.05)

    def finish(self) -> int:
        """Says so when nothing changed; returns the exit code of success."""
        if not self.changed:
            say("nothing to change")
        return 0


def run(argv: Sequence[str], seconds: float = TOOL_TIMEOUT) -> str:
    """Output of a command that succeeds; raises as `Steps.change` does, after so many seconds.

    Not its warnings: ip(8) has one when links change while it lists them, in the midst of JSON.
    """
    # Files, not pipes: ovs-ctl leaves a child behind (`hostname -f &`) that would keep a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        argv = addressed(argv)
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=seconds,
                check=False,
                env=_surroundings(),
            )
        except FileNotFoundError:
            raise missing(argv[0]) from None
        except OSError as error:
            raise Unavailable(f"cannot run {argv[0]}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise TimedOut(f"`{printable.command(*argv)}` did not end within {seconds:g} seconds") from None
        printed, said = (_text(file) for file in (output, errors))
    if done.returncode != 0:
        lines = [line for line in f"{printed}\n{said}".splitlines() if line.strip()]
        last = (lines or ["it printed nothing"])[-1]
        raise StepFailed(f"`{printable.command(*argv)}` failed with exit code {done.returncode}: {last}")
    return printed


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def succeeds(*argv: str) -> bool:
    """Whether a command that changes nothing exists and ends with exit code 0."""
    try:
        run(argv)
    except OvnDockerError:
        return False
    return True


def require(tool: str) -> None:
    """Raises Unavailable, naming the Debian package, when a program is not installed."""
    if shutil.which(tool) is None:
        raise missing(tool)


def missing(tool: str) -> Unavailable:
    """The error for a program that is not installed."""
    name = Path(tool).name
    prefix = max((p for p in PACKAGES if name.startswith(p)), key=len, default=name)
    return Unavailable(f"{name} is not installed; run `apt install {PACKAGES.get(prefix, name)}`")


def rows(*argv: str) -> list[dict[str, Any]]:
    """The rows that ``ovs-vsctl list`` or its like prints; `argv` is the command without its format.

    A set becomes a list, a map a dict, a UUID a string, as RFC 7047 section 5.1 writes them.
    """
    reply = json.loads(run((argv[0], "--format=json", *argv[1:])))
    return [{k: plain(v) for k, v in zip(reply["headings"], row, strict=True)} for row in reply["data"]]


def plain(value: Any) -> Any:
    """A value without the notation of RFC 7047, section 5.1."""
    match value:
        case ["uuid", uuid]:
            return uuid
        case ["set", members]:
            return [plain(member) for member in members]
        case ["map", pairs]:
            return {plain(k): plain(v) for k, v in pairs}
        case _:
            return value


def addressed(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command; of ovs-vsctl(8) with the database of the driver's settings, if they name another."""
    if argv[0] == "ovs-vsctl" and (database := environment(os.environ).get("OVN_DOCKER_DB")):
        return argv[0], f"--db={database}", *argv[1:]
    return tuple(argv)


def _surroundings() -> dict[str, str]:
    """Return the environment of a command: the directories of OVS and OVN are those of the driver."""
    ours = environment(os.environ)
    inherited = {name: value for name, value in os.environ.items() if name not in REMOTE_DATABASES}
    return inherited | {name: ours[name] for name in _DIRECTORIES if name in ours}
