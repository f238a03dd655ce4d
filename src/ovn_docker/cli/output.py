"""What is printed: tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(what: object) -> None:
    """Prints it as JSON."""
    print(as_json(what))


def as_json(what: object) -> str:
    """Dataclasses, and collections of them, as JSON: tuples are lists, sets are sorted lists."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, frozenset | set):
            return sorted(value)
        return str(value)

    return json.dumps(what, default=plain, indent=2)
