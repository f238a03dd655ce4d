"""The traffic that the data path is measured with."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.traffic import KINDS

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("network_namespace")


@contextmanager
def traffic(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run bench.traffic until the block ends; enter it when the traffic is ready."""
    command = [sys.executable, "-m", "bench.traffic", *arguments]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False)


@pytest.fixture
def pid() -> Iterator[str]:
    """A process in the network namespace of the test."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        yield str(process.pid)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_traffic_of_a_kind_is_counted_by_its_servers(tmp_path: Path, pid: str, kind: str) -> None:
    counts = tmp_path / "counts"
    with traffic("serve", str(counts), pid):
        with traffic("send", kind, "0.5", pid, pid, "--", "127.0.0.1", "127.0.0.1") as client:
            assert client.wait(30) == 0
        numbers = memoryview(counts.read_bytes()).cast("Q").tolist()
    counted = dict(zip(KINDS, numbers, strict=True))
    assert counted.pop(kind) > 0
    assert not any(counted.values())


def test_traffic_without_a_server_fails(pid: str) -> None:
    command = [sys.executable, "-m", "bench.traffic", "send", "requests", "1", pid, "--", "127.0.0.1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "before they were ready" in done.stderr
