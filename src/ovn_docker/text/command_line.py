"""A parser of command lines that reports a mistake in one line, with the word that was probably meant."""

import argparse
import re
from typing import Any, ClassVar, NoReturn

from ovn_docker.text.output import say_error
from ovn_docker.text.printable import one_line
from ovn_docker.text.spelling import hint


class CommandLine(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    json: ClassVar[bool] = False
    """True if errors are JSON."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        text = f"{_hinted(message)} (see `{self.prog} --help`)"
        if CommandLine.json:
            say_error(text, "bad_request", 2)
            self.exit(2)
        self.exit(2, f"{one_line(f'{self.prog}: {text}')}\n")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """Refuse unknown arguments here, in the parser of the command, whose name the error then has."""
        found, rest = super().parse_known_args(*args, **kwargs)
        if rest:
            known = re.findall(r"--[a-z-]+", self.format_usage())
            meant = next(filter(None, (hint(word.partition("=")[0], known) for word in rest)), "")
            self.error(f"unrecognized arguments: {' '.join(rest)}{f': {meant}' if meant else ''}")
        return found, rest


def _hinted(message: str) -> str:
    """Return argparse's error about a choice, with the choice that was probably meant."""
    wrong = re.fullmatch(r"(.*invalid choice: '(.*)') \(choose from (.*)\)", message)
    meant = hint(wrong[2], re.findall(r"'([^']*)'", wrong[3])) if wrong else ""
    return f"{wrong[1]}: {meant}" if wrong and meant else message
