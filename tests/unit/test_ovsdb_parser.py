"""Parsing of OVSDB messages that arrive in pieces of any size."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.host.ovsdb.parser import Parser

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('\\"{}[],:ab\u00e4\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('\\"{}ab', max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text('\\"{}ab', max_size=4), VALUES, max_size=4)


def read(text: str, size: int) -> tuple[Any, int]:
    """Return the first message in a text that comes in pieces, and its number of characters."""
    parser, taken = Parser(), 0
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        used = parser.feed(piece)
        assert 0 <= used <= len(piece)
        taken += used
        if parser.is_done():
            return parser.finish(), taken
        assert used == len(piece), "what is not used is not fed again"
    return None, taken


@given(MESSAGES, MESSAGES, st.integers(1, 9), st.booleans())
def test_message_is_the_same_in_pieces_of_any_size(
    message: dict[str, Any], following: dict[str, Any], size: int, ascii_only: bool
) -> None:
    text = json.dumps(message, ensure_ascii=ascii_only)
    assert read(text + json.dumps(following), size) == (message, len(text))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("text", ["nonsense", '{"a": nonsense}', '{"a" 1}', "[1, 2", '"text"'])
def test_invalid_message_is_an_error(text: str, size: int) -> None:
    said, _ = read(text, size)
    assert said is None or isinstance(said, str | list)


def test_large_message_takes_linear_time() -> None:
    rows = [{"name": f"{number:064x}", "external_ids": ["map", [["a", 'b\\"}']]]} for number in range(20_000)]
    text = json.dumps({"id": 1, "result": [{"rows": rows}], "error": None})
    assert read(text, 4096)[0]["result"][0]["rows"] == rows
