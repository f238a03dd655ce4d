"""Commands that tell all about their failure, and waits that end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    # Not /usr/local: the Docker under test is the distribution's.  Last, the environment that runs the tests.
    "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{sys.prefix}/bin",
}

PATIENCE = float(os.environ.get("OVN_DOCKER_TEST_PATIENCE", "1"))
"""Time-outs of the lab are multiplied by this, on a machine whose processor is emulated."""

T = TypeVar("T")


class LabError(Exception):
    """The lab did not do what a test needs in order to mean anything."""


class CommandError(LabError):
    """A command failed: `status` is its exit status (124: it ran out of time), the rest what it wrote."""

    def __init__(self, where: str, argv: tuple[str, ...], status: int, stdout: str, stderr: str) -> None:
        super().__init__(where, argv, status, stdout, stderr)
        self.where, self.argv, self.status, self.stdout, self.stderr = where, argv, status, stdout, stderr

    def __str__(self) -> str:
        said = [f"--- {name}\n{text}" for name in ("stdout", "stderr") if (text := getattr(self, name))]
        return "\n".join([f"{self.where}: exit status {self.status}: {' '.join(self.argv)}", *said])


def run(
    where: str,
    enter: list[str],
    argv: tuple[str, ...],
    *,
    check: bool = True,
    timeout: float = 30,
    env: dict[str, str] | None = None,
    stdin: str | IO[bytes] = "",
) -> str:
    """What a command prints, without the last line's end.

    `enter` is the command that puts it in its place, `where` the name of that place; `timeout` in seconds.
    """
    timeout *= PATIENCE
    done = subprocess.run(
        [*enter, "timeout", "--kill-after=1", f"{timeout:g}", *argv],  # inside: `nsenter` passes no signal on
        env=ENVIRONMENT | (env or {}),
        input=stdin.encode() if isinstance(stdin, str) else None,
        stdin=None if isinstance(stdin, str) else stdin,
        capture_output=True,
        check=False,
        timeout=timeout + 5 * PATIENCE,
    )
    stdout, stderr = (text.decode(errors="replace").rstrip("\n") for text in (done.stdout, done.stderr))
    if check and done.returncode:
        raise CommandError(where, argv, done.returncode, stdout, stderr)
    return stdout


def begin(
    argv: list[str], env: dict[str, str], *, stdin: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a long-lived process; returns it and the words of the first line that it printed."""
    process = subprocess.Popen(
        argv,
        env=ENVIRONMENT | env,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests, which then end their lab in good order
    )
    assert process.stdout is not None
    with process.stdout as output:
        words = (said := output.readline()).split()
        if not words or not words[0].isdecimal():
            raise CommandError("lab", tuple(argv), process.wait(), "", said + output.read())
    return process, words


def wait_for(condition: Callable[[], T], what: str, timeout: float = 60) -> T:
    """Return what `condition()` does as soon as that is true; until then it may raise OSError or LabError.

    `timeout` is in seconds: so many that only what never happens takes all of them, on a slow machine too.
    """
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    trouble: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if result := condition():
                return result
            trouble = None
        except (OSError, LabError) as error:
            trouble = error
        time.sleep(0.02)
    raise LabError(f"waited {timeout:g} s in vain for {what}") from trouble


def at_once(function: Callable[[T], object], subjects: Iterable[T]) -> None:
    """Call a function on every subject, all at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(function, subjects))
