"""Steps of a set-up command: each prints what changes, with the command, and makes the change.

A command first reads the state of the machine (host/run.py), then changes what differs (`Steps.change`).
With ``--dry-run`` the changes are printed and not made.
"""

import sys
import time
from collections.abc import Callable, Iterable

from ovn_docker.errors import TimedOut
from ovn_docker.host.run import StepFailed, addressed, run
from ovn_docker.text import printable
from ovn_docker.text.output import say, say_lines


class Steps:
    """The changes of one invocation.

    Args:
        dry_run: print the commands that change something, run none of them.

    """

    def __init__(self, *, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.changed = False

    def change(self, what: str, *argv: str, unless: Callable[[], bool] = lambda: False) -> None:
        """Print what changes (an imperative, no full stop) and the command that changes it, and run that.

        Raises:
            StepFailed: the command ended with an error, and *unless* then returned false.
            TimedOut: the command did not end within TOOL_TIMEOUT.
            Unavailable: the program is not installed, or cannot be run.

        """
        self.show(what, printable.command(*addressed(argv)))
        if not self.dry_run:
            try:
                run(argv)
            except StepFailed:
                if not unless():
                    raise

    def show(self, what: str, command: str, *, first: Iterable[str] = ()) -> None:
        """Print a change that the caller makes itself, with a command that a user could type for it.

        *what* may have lines of details. *first*: other changes that the same command makes, a line each.
        """
        self.changed = True
        head, *details = what.split("\n")
        for line in (*first, head):
            say(f"{'would ' if self.dry_run else ''}{line}")
        for line in details:
            say(line)
        say(f"    $ {command}", flush=True)

    def advise(self, text: str) -> None:
        """Print a note or a warning on standard error; it may have several lines."""
        say_lines(text, file=sys.stderr)

    def wait(self, what: str, ready: Callable[[], bool], *, seconds: float, hint: str) -> None:
        """Wait until *ready* returns true, for at most *seconds*; not at all in a dry run.

        Raises:
            TimedOut: *what* did not happen; *hint* says what to do.

        """
        deadline = time.monotonic() + seconds
        while not self.dry_run and not ready():
            if time.monotonic() > deadline:
                raise TimedOut(f"{what} did not happen within {seconds:g} seconds; {hint}")
            time.sleep(0.05)

    def finish(self) -> int:
        """Print that nothing changed if that is so; return the exit code of success."""
        if not self.changed:
            say("nothing to change")
        return 0
