"""The question before a change that cannot be undone."""

import sys

from ovn_docker.text.output import say


def is_confirmed(change: str) -> bool:
    """Ask whether to make a change, and return the answer; false without a terminal or a line of input.

    The question is on standard error: the output may be JSON.
    """
    sys.stdout.flush()  # it says what the question is about
    say(f"{change}? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""  # closed by the shell: <&-
    if not answer.endswith("\n"):
        say(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}
