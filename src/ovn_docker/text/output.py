"""Output of the commands, which print only here: lines and tables for people, JSON for programs.

Every text passes one_line() on its way to a terminal, so no command can forget it. On a terminal tables fit
its width, and good and bad states have a colour unless NO_COLOR is set (no-color.org).
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, TextIO

from ovn_docker.text.printable import one_line

_GAP = "  "
"""The space between two columns."""

_NARROWEST = 12
"""The least width of a column, in characters, on a narrow terminal."""


class Toned(str):
    """Text with a meaning that a terminal shows as a colour (ECMA-48, 8.3.117, SGR)."""

    __slots__ = ("code",)
    code: int


def good(text: str) -> Toned:
    """Return *text* marked as a good state."""
    return _toned(text, 32)


def doubtful(text: str) -> Toned:
    """Return *text* marked as a state that may be bad, or is not known."""
    return _toned(text, 33)


def bad(text: str) -> Toned:
    """Return *text* marked as a bad state."""
    return _toned(text, 31)


def say(*parts: object, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print one line of one or more *parts*, on standard output if *file* is not given."""
    to = file or sys.stdout
    print("".join(_shown(part, to) for part in parts), file=file, end=end, flush=flush)


def say_lines(text: str, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text of several lines, of this program without foreign names, or of another program."""
    for line in text.split("\n"):
        say(line.expandtabs().rstrip(), file=file, flush=flush)


def say_file(text: str) -> None:
    """Print the text of a file, which the caller has checked: to a terminal as lines, else as it is."""
    if sys.stdout.isatty():
        say_lines(text.removesuffix("\n"))
    else:
        sys.stdout.write(text)


def say_error(message: str, kind: str, exit_code: int) -> None:
    """Print the error that ends a command on standard error, as JSON in one line."""
    import json  # not for each command

    say(json.dumps({"error": kind, "message": message, "exit_code": exit_code}), file=sys.stderr)


def print_document(text: str) -> None:
    """Write a whole file, such as a picture, to standard output unchanged: its format has its own quoting."""
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
    """Print a value as JSON, with escapes for all characters but ASCII."""
    print(as_json(what))


def as_json(what: object) -> str:
    """Return dataclasses, and collections of them, as JSON: tuples are lists, sets are sorted lists."""
    import json  # not for each command, and dataclasses takes 7 ms
    from dataclasses import fields, is_dataclass

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
    """Return the parts of a line: *cells* padded to their columns, with the meaning of the cells of *row*."""
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
    """Return the widths of columns that fit into *room* together: the widest columns shrink."""
    widths = [*widths]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _folded(text: str, width: int) -> list[str]:
    """Return the lines of a folded cell, at least one."""
    if len(text) <= width:
        return [text]
    import textwrap  # not for each command

    return textwrap.wrap(text, max(width, 1), break_on_hyphens=False) or [""]
