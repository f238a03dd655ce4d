"""Foreign text made fit for a terminal, a log and a command line. Pure.

Names come from Docker, Neutron and OVN's databases, where any host may write any text. A control character
would move the cursor, a line break would forge a line, a bidirectional control would change the order of
characters.
"""

import re
import shlex
from collections.abc import Sequence
from typing import Any

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters without a glyph (Unicode, Default_Ignorable_Code_Point) that str.isprintable() accepts."""


def one_line(text: str) -> str:
    r"""Return *text* in one line, with Python's escapes, such as ``\x1b``, for characters without a glyph."""
    if is_plain(text):
        return text
    return "".join(char if is_plain(char) else char.encode("unicode_escape").decode() for char in text)


def first_of(names: Sequence[str], most: int) -> str:
    """Return the first names, such as ``a, b and 7 more``: at most *most* of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def is_plain(text: str) -> bool:
    """Return whether every character of *text* has a glyph and stays in the line."""
    return text.isprintable() and (text.isascii() or not _INVISIBLE.search(text))


def printable(value: Any) -> Any:
    """Return *value*, of JSON's types or tuples, with ``?`` for each character that one_line() escapes."""
    if _is_printable(value):
        return value  # no copy: it may be large
    if isinstance(value, str):
        return "".join(char if is_plain(char) else "?" for char in value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value]


def _is_printable(value: Any) -> bool:
    if isinstance(value, str):
        return is_plain(value)
    if isinstance(value, dict):
        return all(map(_is_printable, value)) and all(map(_is_printable, value.values()))
    return all(map(_is_printable, value)) if isinstance(value, list | tuple) else True


def command(*words: str) -> str:
    """Return a command line that can be copied to a shell, in one line, for any words."""
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    if is_plain(word):
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"  # in bash, see bash(1), "Quoting", zsh and ksh


def _escaped(char: str) -> str:
    if char in "\\'\n":
        return "\\n" if char == "\n" else f"\\{char}"
    if is_plain(char):
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors="replace"))
