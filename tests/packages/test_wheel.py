"""The source distribution and the wheel: equal from the tree and from each other, and complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.lab.images import REPOSITORY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="install-files is root's")


def hatchling(source: Path, directory: Path, *targets: str) -> None:
    """Build with the backend of pyproject.toml, as every front end of it does."""
    wanted = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(directory), *wanted]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built")
    hatchling(REPOSITORY, directory, "sdist", "wheel")
    return directory


def test_wheel_of_the_source_distribution_is_that_of_the_tree(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    (wheel,) = built.glob("*.whl")
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True, timeout=60)
    (source,) = tmp_path.iterdir()
    hatchling(source, tmp_path / "again", "wheel")
    assert (tmp_path / "again" / wheel.name).read_bytes() == wheel.read_bytes()


def test_wheel_places_all_files_of_an_installation(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    target = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        target,
        wheel,
    ]
    subprocess.run(pip, check=True, timeout=600)
    # Its dependencies are those of the tests' own environment; PYTHONPATH comes before that.
    path = {"PATH": os.environ["PATH"], "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, str(target / "bin/ovn-docker"), *words]
        done = subprocess.run(command, env=path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tree = tmp_path / "tree"
    options = ("--root", str(tree), "--programs", "/opt/mine/bin")
    run("install-files", *options)
    listed = [line for line in (REPOSITORY / "packaging/files").read_text().splitlines() if line[0] != "#"]
    placed = [path for path in tree.rglob("*") if path.is_file()]
    assert len(placed) == len(listed)
    assert run("install-files", *options) == "nothing to change\n"
    run("install-files", *options, "--remove")
    assert [path for path in tree.rglob("*") if path.is_file()] == []
