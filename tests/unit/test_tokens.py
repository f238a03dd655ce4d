"""Tokens with which hosts join: their form, and the store."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.enrolment import tokens
from ovn_docker.enrolment.tokens import Token, TokenStore
from ovn_docker.errors import BadRequest, Forbidden, NotFound, Unavailable

AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    return TokenStore(tmp_path)


def test_a_token_is_one_word_that_can_be_read_back(store: TokenStore) -> None:
    token = store.create(60, None)
    assert tokens.parse(f" {token}\n") == token
    assert token.fingerprint == tokens.fingerprint(AUTHORITY)
    assert len(token.secret) == 32


@given(st.text())
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(BadRequest, match="invalid token: it begins with ovnd1"):
        tokens.parse(text)


def test_the_store_has_no_secret(store: TokenStore, tmp_path: Path) -> None:
    token = store.create(60, 1)
    kept = (tmp_path / "tokens.json").read_text()
    assert token.secret not in kept
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600


def test_a_token_is_good_for_its_number_of_uses(store: TokenStore) -> None:
    token = store.create(60, 2)
    for _ in range(2):
        store.check(token.id, token.secret)
        store.use(token.id, token.secret)
    for refused in (store.check, store.use):
        with pytest.raises(Forbidden, match="used as often as it may be"):
            refused(token.id, token.secret)


def test_a_token_without_a_number_is_good_until_it_expires(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = store.create(60, None)
    for _ in range(5):
        store.use(token.id, token.secret)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(Forbidden, match="the token has expired"):
        store.use(token.id, token.secret)
    store.create(60, None)
    assert token.id not in [one.id for one in store.all()]


@pytest.mark.parametrize("change", ["id", "secret", "revoked"])
def test_an_unknown_token_is_refused_without_a_difference(store: TokenStore, change: str) -> None:
    token = store.create(60, None)
    if change == "revoked":
        store.revoke(token.id)
    given = Token(
        "0" * 8 if change == "id" else token.id,
        "0" * 32 if change == "secret" else token.secret,
        token.fingerprint,
    )
    with pytest.raises(Forbidden, match="the token is unknown, or was revoked"):
        store.use(given.id, given.secret)


def test_an_unknown_token_cannot_be_revoked(store: TokenStore) -> None:
    with pytest.raises(NotFound, match="unknown token 'xyz'; `ovn-docker token list` shows"):
        store.revoke("xyz")


def test_no_token_is_revoked_without_an_authority(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run `ovn-docker central start` first"):
        TokenStore(tmp_path / "absent").revoke("12345678")


def test_there_is_no_token_without_an_authority(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run `ovn-docker central start` first"):
        TokenStore(tmp_path).create(60, None)


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"id": "x"}]'])
def test_a_damaged_store_is_an_error_in_one_line(store: TokenStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    for refused in (store.all, lambda: store.use("x", "y")):
        with pytest.raises(Unavailable, match=r"tokens\.json is damaged .* remove it and make new tokens"):
            refused()


def _use(directory: Path, token: Token, uses: int) -> None:
    for _ in range(uses):
        TokenStore(directory).use(token.id, token.secret)


def test_no_use_is_lost_between_processes(store: TokenStore, tmp_path: Path) -> None:
    token = store.create(600, 100)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_use, args=(tmp_path, token, 10)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    (left,) = json.loads((tmp_path / "tokens.json").read_text())
    assert left["uses"] == 60
