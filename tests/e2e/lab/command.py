"""Commands whose errors have the whole output, and waits with a time limit."""

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
    # Without /usr/local, as the distribution's Docker is tested; with the virtual environment of the tests.
    "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{sys.prefix}/bin",
}

TIMEOUT_FACTOR = float(os.environ.get("OVN_DOCKER_TEST_PATIENCE", "1"))
"""Time-outs of the lab are multiplied by this, on a machine whose processor is emulated."""

T = TypeVar("T")


class LabError(Exception):
    """The lab failed to do something that a test depends on."""


class CommandError(LabError):
    """A command failed: *status* is its exit status (124: time limit), *stdout* and *stderr* its output."""

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
    timeout: float = 60,
    env: dict[str, str] | None = None,
    stdin: str | IO[bytes] = "",
) -> str:
    """Return the output of a command, without the last line end.

    *enter*: the command that runs it in its place; *where*: the name of that place; *timeout* in seconds.
    """
    timeout *= TIMEOUT_FACTOR
    done = subprocess.run(
        [*enter, "timeout", "--kill-after=1", f"{timeout:g}", *argv],  # inside: `nsenter` passes no signal on
        env=ENVIRONMENT | (env or {}),
        input=stdin.encode() if isinstance(stdin, str) else None,
        stdin=None if isinstance(stdin, str) else stdin,
        capture_output=True,
        check=False,
        timeout=timeout + 5 * TIMEOUT_FACTOR,
    )
    stdout, stderr = (text.decode(errors="replace").rstrip("\n") for text in (done.stdout, done.stderr))
    if check and done.returncode:
        raise CommandError(where, argv, done.returncode, stdout, stderr)
    return stdout


def begin(
    argv: list[str], env: dict[str, str], *, stdin: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a long-lived process; return it and the words of the first line that it prints."""
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


def wait_for(condition: Callable[[], T], what: str, timeout: float = 120) -> T:
    """Return the first true value of `condition()`; until then it may raise OSError or LabError.

    *timeout*, in seconds, is long enough for a slow machine; only a condition that never holds takes it all.
    The pause between two calls is as long as a call, to leave the processor to the awaited process.
    """
    timeout *= TIMEOUT_FACTOR
    deadline = time.monotonic() + timeout
    trouble: Exception | None = None
    while (begun := time.monotonic()) < deadline:
        try:
            if result := condition():
                return result
            trouble = None
        except (OSError, LabError) as error:
            trouble = error
        time.sleep(min(max(0.02, time.monotonic() - begun), 0.5))
    raise LabError(f"waited {timeout:g} s in vain for {what}") from trouble


def at_once(function: Callable[[T], object], subjects: Iterable[T]) -> None:
    """Call a function for all subjects at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(function, subjects))
