"""Hints for misspelt words: the most similar known word, or an empty string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.cli.main import COMMANDS
from ovn_docker.text.spelling import hint, meant

CONTAINERS = ("web1", "web2", "db", "frontend", "Backend")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("staus", "status"),
        ("stauts", "status"),
        ("isnpect", "inspect"),
        ("Doctor", "doctor"),
        ("insp", "inspect"),
        ("grap", "graph"),
        ("lss", "ls"),
        ("nodes", ""),
        ("rm", ""),
        ("", ""),
        ("x" * 5000, ""),
    ],
)
def test_meant_names_a_similar_command(word: str, wanted: str) -> None:
    assert meant(word, COMMANDS) == wanted


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("frontent", "frontend"),
        ("backend", "Backend"),
        ("web3", ""),
        ("wbe1", "web1"),
        ("da", ""),
        ("api", ""),
    ],
)
def test_meant_does_not_take_one_container_for_another(word: str, wanted: str) -> None:
    assert meant(word, CONTAINERS) == wanted


def test_hint_is_a_question_or_empty() -> None:
    assert hint("staus", COMMANDS) == "did you mean status?"
    assert hint("nodes", COMMANDS) == ""


@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_a_long_word_with_one_letter_left_out_is_recognised(word: str, data: st.DataObject) -> None:
    if len(word) >= 5:
        place = data.draw(st.integers(0, len(word) - 1))
        assert meant(word[:place] + word[place + 1 :], COMMANDS) == word


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=5))
def test_meant_is_a_known_word_or_empty(word: str, known: list[str]) -> None:
    assert meant(word, known) in {*known, ""}
