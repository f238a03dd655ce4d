"""All that the commands print, and nothing else does: lines and tables for people, JSON for programs.

No text reaches a terminal but through one_line(): no command can forget it.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TextIO

from ovn_docker.printable import one_line


def say(line: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print one line, on standard output if *file* is not given."""
    print(one_line(str(line)), file=file, end=end, flush=flush)


def say_lines(text: str, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text of several lines: one of ours, without names of others, or of another program."""
    for line in text.split("\n"):
        say(line.expandtabs().rstrip(), file=file, flush=flush)


def print_document(text: str) -> None:
    """Write a whole file, such as a picture, to standard output as it is: its format has its own quoting."""
    sys.stdout.write(text)


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in aligned columns."""
    shown = [[*map(one_line, line)] for line in lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(what: object) -> None:
    """Print it as JSON, which writes all but ASCII as escapes."""
    print(as_json(what))


def as_json(what: object) -> str:
    """Dataclasses, and collections of them, as JSON: tuples are lists, sets are sorted lists."""
    import json  # not for each command

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, frozenset | set):
            return sorted(value)
        return str(value)

    return json.dumps(what, default=plain, indent=2)
