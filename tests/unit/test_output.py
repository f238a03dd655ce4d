"""Output on a terminal and elsewhere: width, colours, errors as JSON."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

PRINTS = """
import sys
from ovn_docker.cli import ls, main
from ovn_docker.text.output import bad, good, print_json, print_table, say
from ovn_docker.errors import NotFound

def run(args):
    if args.json:
        print_json({"a": good("b")})
        raise NotFound("no such \\u201cthing\\u201d")
    print_table([
        ("", "NAME", "STATE", "REMARK", ""),
        (bad("!"), "web", good("up"), "word " * 20 + "https://" + "x" * 90, ""),
        ("", "db", "down", "", ""),
    ])
    say(bad("fail"), " check: ", "evidence\\x1b[2J")
    return 0

ls.run = run
sys.exit(main.main(["ls", *sys.argv[1:]]))
"""


def on_terminal(columns: int, **variables: str) -> str:
    """Return the program's output on a terminal with this number of columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS], stdout=theirs, env={**environment, "TERM": "xterm", **variables}
    ):
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:  # EIO: the program has closed the terminal
            pass
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def in_pipe(*arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    argv = [sys.executable, "-c", PRINTS, *arguments]
    return subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_tables_fit_the_terminal_and_lose_nothing(columns: int) -> None:
    lines = on_terminal(columns, NO_COLOR="1").splitlines()[:-1]
    assert max(map(len, lines)) <= columns
    remark = "".join(line[16:].strip() + " " for line in lines)
    assert remark.count("word") == 20
    assert "".join(remark.split()).count("x") == 90
    assert [line.split()[:2] for line in lines if "db" in line] == [["db", "down"]]


def test_a_wide_terminal_has_one_line_for_each_row() -> None:
    assert len(on_terminal(300, NO_COLOR="1").splitlines()) == 4


def test_a_terminal_shows_colours() -> None:
    said = on_terminal(300)
    assert "\x1b[31m!" in said
    assert "\x1b[32mup" in said
    assert "\x1b[31mfail\x1b[0m check: evidence\\x1b[2J" in said
    plain = on_terminal(300, NO_COLOR="1")
    assert "\x1b" not in plain
    assert "\x1b" not in on_terminal(300, TERM="dumb")
    for code in ("\x1b[31m", "\x1b[32m", "\x1b[0m"):
        said = said.replace(code, "")
    assert said == plain


def test_a_pipe_has_whole_lines_without_colours() -> None:
    said = in_pipe().stdout
    assert "\x1b" not in said
    assert said.count("\n") == 4
    assert said.splitlines()[1].endswith("x" * 90)


def test_errors_are_json_with_the_option_json() -> None:
    done = in_pipe("--json")
    assert json.loads(done.stdout) == {"a": "b"}
    said = {"error": "not_found", "message": "no such “thing”", "exit_code": 1}
    assert (json.loads(done.stderr), done.returncode, done.stderr.count("\n")) == (said, 1, 1)


def test_wrong_usage_is_json_with_the_option_json() -> None:
    done = in_pipe("--json", "network")
    said = json.loads(done.stderr)
    assert (said["error"], said["exit_code"], done.returncode, done.stdout) == ("bad_request", 2, 2, "")
    assert "did you mean networks? (see `ovn-docker ls --help`)" in said["message"]
