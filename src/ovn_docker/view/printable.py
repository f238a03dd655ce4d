"""What others have written, fit to be shown on a terminal. Pure."""

from typing import Any


def printable(value: Any) -> Any:
    """Without control characters, which could make a terminal show something else."""
    if _is_printable(value):
        return value  # no copy: it may be large
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value]


def _is_printable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, dict):
        return all(map(_is_printable, value)) and all(map(_is_printable, value.values()))
    return all(map(_is_printable, value)) if isinstance(value, list) else True
