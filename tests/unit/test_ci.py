"""CI runs all suites, each once, and reports the result of each."""

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / ".ci/run"
SUITES = ["test", "test-attacks", "test-faults", "test-underlay", "test-engines"]


def run(directory: Path, fails: str, limit: int = 90) -> tuple[int, list[str], dict[str, str]]:
    """Run CI with a `make` that fails for suite *fails*; return status, suites made, and their results."""
    make = directory / "make"
    make.write_text(f"#!/bin/sh\necho made $1\n[ $1 != '{fails}' ]\n")
    make.chmod(0o755)
    env = {"PATH": f"{directory}:{os.environ['PATH']}", "LIMIT": str(limit)}
    done = subprocess.run([RUN], env=env, capture_output=True, text=True, check=False, timeout=120)
    made, _, summary = done.stdout.partition("\n\n")
    ended = dict(line.split(maxsplit=1) for line in summary.splitlines())
    return done.returncode, made.replace("made ", "").splitlines(), ended


@pytest.mark.parametrize("fails", ["", *SUITES])
def test_each_suite_runs_once_also_when_another_fails(tmp_path: Path, fails: str) -> None:
    status, made, ended = run(tmp_path, fails)
    assert made == SUITES
    assert {suite: how.split()[0] for suite, how in ended.items()} == {
        suite: "FAILED" if suite == fails else "passed" for suite in SUITES
    }
    assert status == (1 if fails else 0)


def test_a_suite_that_would_not_end_in_time_is_a_failure(tmp_path: Path) -> None:
    status, made, ended = run(tmp_path, "", limit=26)
    assert made == SUITES[:-1]
    assert ended["test-engines"].startswith("had no time: it needs 24 min, and 25 are left")
    assert status == 1
