"""The benchmark runs, and what it writes can be read. What it measures is no test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the benchmark says."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.slow
def test_an_endpoints_life_beside_the_others(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = bench("--scale=0.01", f"--results={results}", "1", "2")
    assert done.returncode == 0, done.stderr
    heading, _, *rows = done.stdout.splitlines()
    headings = [cell.strip() for cell in heading.strip("|").split("|")]
    assert headings == ["measure", "ours", "theirs", "ratio", "goal", "met"]

    written = json.loads(results.read_text())
    assert {"processor", "cores", "kernel", "versions"} <= written["machine"].keys()
    assert written["measures"].keys() == {"1", "2"}
    lines = [line for measure in written["measures"].values() for line in measure["lines"]]
    assert len(lines) == len(rows)
    for line in lines:
        assert line["measure"][0] in "12"
        assert line["ours"] >= 0
        assert (line["met"] is None) == (not line["goal"])
        assert line["ratio"] is None or line["ratio"] == pytest.approx(line["ours"] / line["theirs"])
    assert {line["against"] for line in lines} >= {"old driver", "floor"}
    calls = written["measures"]["1"]["details"]["ms"]["ours"]
    assert calls.keys() == {"CreateEndpoint", "Join", "EndpointOperInfo", "Leave", "DeleteEndpoint", "sum"}
    (lost,) = (line for line in lines if "left behind" in line["measure"])
    assert lost["ours"] == 0


def test_the_page_has_the_table_that_was_measured() -> None:
    """If not: python -m bench --document."""
    page = (REPOSITORY / "docs" / "performance.md").read_text()
    for row in bench("--show").stdout.splitlines():
        assert row in page


def test_a_measure_that_there_is_none_of_is_refused() -> None:
    done = bench("9")
    assert done.returncode == 2
    assert "no measure 9: there are 1, 2," in done.stderr
