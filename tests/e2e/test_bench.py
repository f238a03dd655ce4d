"""The benchmark runs and its output is valid; the figures are not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark; return its exit status and output."""
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
def test_bench_measures_an_endpoint_life_beside_the_alternatives(tmp_path: Path) -> None:
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


def test_performance_page_has_the_measured_table() -> None:
    """If the test fails, run: python -m bench --document."""
    page = (REPOSITORY / "docs" / "performance.md").read_text()
    for row in bench("--show").stdout.splitlines():
        assert row in page


def test_bench_refuses_an_unknown_measure() -> None:
    done = bench("99")
    assert done.returncode == 2
    assert "no measure 99: there are 1, 2," in done.stderr
