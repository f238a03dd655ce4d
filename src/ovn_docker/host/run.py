"""Runs other programs of this machine, with a time limit: the only module that waits for a subprocess."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from ovn_docker.errors import OvnDockerError, TimedOut, Unavailable
from ovn_docker.host.distribution import distribution
from ovn_docker.host.environment import environment
from ovn_docker.text import printable

TOOL_TIMEOUT = 60.0
"""Time limit in seconds of a command of OVS or OVN; starting a daemon takes 0.1 s."""

REMOTE_DATABASES = ("OVN_NB_DB", "OVN_SB_DB", "OVN_NB_DAEMON", "OVN_SB_DAEMON")
"""Variables that have ovn-nbctl(8) and ovn-sbctl(8) use other databases than this machine's."""

_DIRECTORIES = ("OVS_RUNDIR", "OVN_RUNDIR")


class StepFailed(OvnDockerError):
    """A command of OVS, OVN or the system ended with an error; *lines*: of its output, errors last."""

    def __init__(self, message: str, code: int = 1, output: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.output = output
        self.lines = tuple(lines)


def run(
    argv: Sequence[str],
    seconds: float = TOOL_TIMEOUT,
    *,
    text: str = "",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its standard output.

    Standard error is not returned: ip(8) writes a warning there when links change while it lists them.

    Args:
        argv: Program and arguments.
        seconds: Time limit, after which the command is killed.
        text: Standard input.
        variables: Added to its environment.

    Raises:
        Unavailable: the program is not installed, or cannot be run.
        TimedOut: it did not end within *seconds*.
        StepFailed: it ended with another exit code than 0.

    """
    # Files, not pipes: ovs-ctl leaves a child behind (`hostname -f &`) that would keep a pipe open. Files in
    # memory, not on a disk: the barrier has to be loaded also while a disk is full.
    argv = addressed(argv)
    with ExitStack() as files:
        try:
            given, output, errors = (files.enter_context(_file_in_memory()) for _ in range(3))
            given.write(text.encode())
            given.seek(0)
            done = subprocess.run(
                argv,
                stdin=given,
                stdout=output,
                stderr=errors,
                timeout=seconds,
                check=False,
                env={**_surroundings(), **(variables or {})},
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
        message = f"`{printable.command(*argv)}` failed with exit code {done.returncode}: "
        raise StepFailed(message + (lines or ["no output"])[-1], done.returncode, printed, lines)
    return printed


def _file_in_memory() -> IO[bytes]:
    """Return an empty file that no directory has (memfd_create(2)). Raises OSError."""
    return os.fdopen(os.memfd_create("ovn-docker"), "w+b")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def succeeds(*argv: str, seconds: float = TOOL_TIMEOUT) -> bool:
    """Return whether a command exists and ends with exit code 0 within *seconds*."""
    try:
        run(argv, seconds)
    except OvnDockerError:
        return False
    return True


def require(tool: str) -> None:
    """Raise Unavailable, with the name of its package, if a program is not installed."""
    if shutil.which(tool) is None:
        raise missing(tool)


def missing(tool: str) -> Unavailable:
    """Return the error for a program that is not installed."""
    return Unavailable(f"{Path(tool).name} is not installed; {distribution().cure(tool)}")


def addressed(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command; ovs-vsctl(8) gets the database of the driver's settings, if these name one."""
    if argv[0] == "ovs-vsctl" and (database := environment(os.environ).get("OVN_DOCKER_DB")):
        return argv[0], f"--db={database}", *argv[1:]
    return tuple(argv)


def _surroundings() -> dict[str, str]:
    """Return the environment of a command, with the directories of OVS and OVN that the driver uses."""
    ours = environment(os.environ)
    inherited = {name: value for name, value in os.environ.items() if name not in REMOTE_DATABASES}
    return inherited | {name: ours[name] for name in _DIRECTORIES if name in ours}
