"""All that the commands print, and nothing else does: lines and tables for people, JSON for programs.

No text reaches a terminal but through one_line(): no command can forget it. On a terminal tables fit its
width, and what is well or wrong has a colour unless NO_COLOR is set (no-color.org); elsewhere neither is so.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from typing import Any, TextIO

from ovn_docker.printable import one_line

_GAP = "  "
"""Between two columns."""

_NARROWEST = 12
"""Characters that a column keeps, however narrow the terminal is."""


class Toned(str):
    """Text with a meaning, which a terminal shows as a colour (ECMA-48, 8.3.117, SGR)."""

    __slots__ = ("code",)
    code: int


def good(text: str) -> Toned:
    """Return *text* as that of something that is well."""
    return _toned(text, 32)


def doubtful(text: str) -> Toned:
    """Return *text* as that of something that may not be well, or could not be found out."""
    return _toned(text, 33)


def bad(text: str) -> Toned:
    """Return *text* as that of something that is wrong."""
    return _toned(text, 31)


def say(*parts: object, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print one line, which may have several *parts*; on standard output if *file* is not given."""
    to = file or sys.stdout
    print("".join(_shown(part, to) for part in parts), file=file, end=end, flush=flush)


def say_lines(text: str, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text of several lines: one of ours, without names of others, or of another program."""
    for line in text.split("\n"):
        say(line.expandtabs().rstrip(), file=file, flush=flush)


def say_error(message: str, kind: str, exit_code: int) -> None:
    """Print on standard error why a command ends, as JSON in one line."""
    import json  # not for each command

    say(json.dumps({"error": kind, "message": message, "exit_code": exit_code}), file=sys.stderr)


def print_document(text: str) -> None:
    """Write a whole file, such as a picture, to standard output as it is: its format has its own quoting."""
    sys.stdout.write(text)


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in aligned columns; on a terminal that is too narrow for them, cells are folded."""
    shown = [[*map(one_line, line)] for line in lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    if sys.stdout is not None and sys.stdout.isatty():
        widths = _fitted(widths, shutil.get_terminal_size().columns)
    for line, texts in zip(lines, shown, strict=True):
        folded = [_folded(text, width) for text, width in zip(texts, widths, strict=True)]
        for cells in zip_longest(*folded, fillvalue=""):
            say(*_aligned(line, cells, widths))


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


def _toned(text: str, code: int) -> Toned:
    found = Toned(text)
    found.code = code
    return found


def _aligned(row: Sequence[str], cells: Sequence[str], widths: list[int]) -> Iterator[str]:
    """Return the parts of a line: *cells* as wide as their columns, with the meaning of those of *row*."""
    last = max((number for number, cell in enumerate(cells) if cell), default=0)
    for number, cell in enumerate(cells[: last + 1]):
        text = cell if number == last else cell.ljust(widths[number]) + _GAP
        whole = row[number]
        yield _toned(text, whole.code) if isinstance(whole, Toned) else text


def _shown(part: object, to: TextIO | None) -> str:
    text = one_line(str(part))
    if not isinstance(part, Toned) or not text or not _has_colours(to):
        return text
    return f"\x1b[{part.code}m{text}\x1b[0m"


def _has_colours(to: TextIO | None) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return not plain and to is not None and to.isatty()


def _fitted(widths: list[int], room: int) -> list[int]:
    """Return the widths of columns that have *room* together: the widest give way."""
    widths = [*widths]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _folded(text: str, width: int) -> list[str]:
    """Return the lines of a cell, which has one at least."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, 1), break_on_hyphens=False) or [""]
