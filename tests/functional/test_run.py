"""Other programs are run on a machine with a full disk or without free file descriptors."""

import resource
import tempfile
from pathlib import Path

import pytest

from ovn_docker.errors import Unavailable
from ovn_docker.host.run import run, succeeds


def test_run_works_with_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The barrier is loaded while /tmp is full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert run(("cat",), text="table inet ovn-docker") == "table inet ovn-docker"


def test_run_without_a_free_file_descriptor_raises_unavailable() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(Unavailable, match="cannot run true: Too many open files"):
            run(("true",))
        assert not succeeds("true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert succeeds("true")


def test_run_does_not_wait_for_a_child_that_its_program_leaves_behind() -> None:
    """ovs-ctl does so; the child has the program's standard output."""
    assert run(("sh", "-c", "tail -f /dev/null --pid=$PPID & echo started"), seconds=10) == "started\n"
