"""Foreign text on a terminal, in a log, and in a command line to copy."""

import ast
import json
import logging
import subprocess
import unicodedata
from pathlib import Path

import pytest

import ovn_docker
from ovn_docker.daemon import logs
from ovn_docker.text import output
from ovn_docker.text.printable import command, one_line, printable

ROOT = Path(ovn_docker.__file__).parent

HOSTILE = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "line": "web\n2026-01-01 forged line",
    "return": "web\rforged",
    "C1": "web\x9b2J",
    "NEL": "web\x85forged",
    "line separator": "web\u2028forged",
    "paragraph separator": "web\u2029forged",
    "right to left": "web\u202egnp.exe",
    "isolate": "web\u2066x\u2069",
    "zero width": "we\u200bb",
    "joiner": "we\u200db",
    "byte order": "\ufeffweb",
    "soft hyphen": "we\u00adb",
    "no break": "we\u00a0b",
    "blank letter": "web\u3164",
    "variation": "web\ufe0f",
    "tag": "web\U000e0041",
    "half a surrogate": "web\ud800",
    "shell": "web; rm -rf / #",
    "substitution": "$(reboot)`reboot`",
    "quotes": "a'b\"c\\d",
    "option": "--yes",
    "markup": "<script>alert(1)</script>",
    "format": "%s%n{0}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_one_line_escapes_characters_without_a_glyph(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.say(HOSTILE[what])
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert all(unicodedata.category(char)[0] not in "CZ" or char == " " for char in said[:-1])
    output.print_table([("NAME", "HOST"), (HOSTILE[what], "host1"), ("b", HOSTILE[what])])
    said = capsys.readouterr().out
    assert said.count("\n") == 3
    assert said[: -len("\n")].replace("\n", "").isprintable()


def test_one_line_keeps_letters_of_all_languages() -> None:
    for text in ("caf\u00e9", "\u7db2\u8def", "\u05e8\u05e9\u05ea", "\u0634\u0628\u0643\u0629", "\U0001f433"):
        assert one_line(text) == text


def test_one_line_keeps_different_names_different() -> None:
    assert len({one_line(text) for text in ("a", "a\u200b", "a\u200c", "a\ufe0f", "a\x00")}) == 5


def test_printable_replaces_characters_in_nested_values() -> None:
    shown = printable({"a\x1b": ["b\n", {"c": "\u202e", "d": 1, "e": None}]})
    assert shown == {"a?": ["b?", {"c": "?", "d": 1, "e": None}]}


@pytest.mark.parametrize("what", sorted(HOSTILE.keys() - {"half a surrogate"}))
def test_a_copied_command_has_its_words_in_a_shell(what: str) -> None:
    line = command("printf", "%s|", HOSTILE[what], "end")
    assert one_line(line) == line
    done = subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    assert done.stdout.decode() == f"{HOSTILE[what]}|end|"


@pytest.mark.parametrize("what", HOSTILE)
def test_the_log_has_one_line_for_a_record(what: str) -> None:
    formatter = logs._Text()
    record = logging.LogRecord("ovn_docker.x", logging.WARNING, "", 0, "network %s", (HOSTILE[what],), None)
    assert one_line(formatter.format(record)) == formatter.format(record)
    error = ValueError(HOSTILE[what])
    record.exc_info = (type(error), error, None)
    _, *traceback = formatter.format(record).split("\n")
    assert all(line.startswith("  ") and one_line(line) == line for line in traceback)
    said = json.loads(logs._Json().format(record))
    assert said["message"] == f"network {HOSTILE[what]}"


def test_only_the_output_module_prints() -> None:
    """Likewise only printable.py quotes command lines."""
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.name in {"output.py", "printable.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {
                *("print", "pprint", "sys.stdout.write", "sys.stderr.write", "sys.stdout.writelines"),
                *("sys.stdout.buffer.write", "sys.stderr.buffer.write", "click.echo"),
                *("shlex.quote", "shlex.join"),
            }:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {called}")
    assert wrong == []
