"""The parts of a line of the log besides its message."""

import json
import logging

import pytest

from ovn_docker.core.name_cache import Directory
from ovn_docker.daemon.logs import _Json, _Text


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("ovn_docker.core.driver", logging.WARNING, "", 0, message, None, None)
    made.__dict__ |= more
    return made


def test_line_about_a_call_has_its_id_once() -> None:
    assert _Text().format(record("late", request="aa")) == "late [request=aa]"
    assert _Text().format(record("late", request="")) == "late"
    assert _Text().format(record("Join request=aa ok", request="aa", call={})) == "Join request=aa ok"


@pytest.mark.parametrize("message", ['a "b" \\n', "ümlaut\nline", "\x1b[31m"])
def test_json_object_is_one_line_whatever_the_message(message: str) -> None:
    line = _Json().format(record(message, request="aa", vlog="driver"))
    assert "\n" not in line
    said = json.loads(line)
    assert (said["message"], said["request"], said["level"], said["module"]) == (
        message,
        "aa",
        "warning",
        "driver",
    )


def test_error_is_logged_with_its_traceback() -> None:
    try:
        int("bad")
    except ValueError as error:
        made = record("failed")
        made.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: invalid literal" in json.loads(_Json().format(made))["traceback"]


def test_directory_keeps_a_limited_number_of_names() -> None:
    directory = Directory()
    assert directory.name("a") == ""
    directory.learn("a", "web")
    directory.learn("a", "db")
    assert directory.name("a") == "db"
    for number in range(20000):
        directory.learn(str(number), "x")
    assert directory.name("a") == ""
    assert directory.name("19999") == "x"
    assert len(directory._names) <= 4096


def test_empty_id_has_no_name() -> None:
    """Docker lists an endpoint without an ID for a container that is not running."""
    directory = Directory()
    directory.learn("", "web")
    assert directory.name("") == ""
