"""Debian packages, built for each release, and clean Debian trees to install them in."""

import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab.command import run
from e2e.lab.images import REPOSITORY, built_once
from functional.test_install import made_once
from packages import trees

PARTS = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "docs",
    "packaging",
    "pyproject.toml",
    "scripts",
    "src",
    "tools",
)
DATE = "1790000000"
"""SOURCE_DATE_EPOCH of the packages under test."""

BOOT = """
mount -t tmpfs none $TOP
mkdir $TOP/upper $TOP/work $TOP/root
mount -t overlay none -o lowerdir=$TREE,upperdir=$TOP/upper,workdir=$TOP/work $TOP/root
cd $TOP/root
mkdir -p shared
mount --bind $SHARED shared
mount -t proc proc proc
mount -t tmpfs -o mode=755 none dev
for n in null zero full random urandom; do cp -a /dev/$n dev/; done
ln -s /proc/self/fd dev/fd
mount -t tmpfs none run
mount -t tmpfs none tmp
echo ready
# A shell that waits is an init that reaps: orphans do not stay as zombies.
sleep infinity &
wait
"""


class Root:
    """A running copy of a Debian tree, without systemd; it ends with its changes.

    *shared* is a directory outside, /shared inside. Without *network* it has only a loopback interface.
    """

    def __init__(self, top: Path, tree: Path, shared: Path, *, network: bool = False) -> None:
        top.mkdir()
        self.top = top
        spaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
        self.process = subprocess.Popen(
            ["unshare", *spaces, *([] if network else ["--net"]), "sh", "-ec", BOOT],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "TOP": str(top),
                "TREE": str(tree),
                "SHARED": str(shared),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n", "see above what its shell says"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = children.read_text().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "-t", self.pid, "--mount", "--pid", "--net", "chroot", str(self.top / "root")]
        clean = ["env", "-i", "-C", "/", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        return subprocess.run(
            [*enter, *clean, "DEBIAN_FRONTEND=noninteractive", *argv],
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def out(self, *argv: str) -> str:
        """Return the output of a command that must succeed."""
        done = self.run(*argv)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def sh(self, script: str) -> str:
        """Return the output of a shell script that must succeed."""
        return self.out("sh", "-ec", script)

    def apt(self, *arguments: str) -> str:
        """Install or remove packages, without questions."""
        return self.out("apt-get", "-q", "--yes", "--no-install-recommends", *arguments)


def build(suite: str, directory: Path) -> None:
    """Build the packages of a release into a directory."""
    source = directory / "source"
    copy_sources(source)
    shutil.copytree(kept_wheels(suite, directory), directory / "build", symlinks=True)
    root = Root(directory / "root", trees.tools(suite), directory, network=True)
    try:
        root.sh(f"cd /shared/source; BUILD=/shared/build DIST=/shared SOURCE_DATE_EPOCH={DATE} scripts/deb")
    finally:
        root.close()
    shutil.rmtree(source)
    shutil.rmtree(directory / "build")


def copy_sources(directory: Path) -> None:
    """Copy what the packages are built from."""
    directory.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy
        copy(REPOSITORY / part, directory / part)


def kept_wheels(suite: str, directory: Path) -> Path:
    """Return the directory of scripts/wheels of a release, kept between runs of the tests.

    *directory* has the sources, in source/.
    """

    def make(path: Path) -> None:
        # The machine's own certificates, with which it reaches PyPI.
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", directory / "certificates")
        script = "PIP_CERT=/shared/certificates /shared/source/scripts/wheels /shared/wheels"
        root = Root(directory / "wheels-root", trees.tools(suite), directory, network=True)
        try:
            root.sh(f"{script} requirements-underlay.txt")
        finally:
            root.close()
        run("wheels", [], ("cp", "-a", str(directory / "wheels"), str(path)))
        shutil.rmtree(directory / "wheels")

    pins = [REPOSITORY / f"packaging/requirements-{name}.txt" for name in ("build", "underlay")]
    digest = f"{zlib.crc32(b''.join(path.read_bytes() for path in pins)):08x}"
    return built_once(f"wheels-{suite}-{digest}", make)


def repack(debs: Path, directory: Path) -> None:
    """Write the same packages as those of a later version, 99."""
    for package in debs.glob("*.deb"):
        tree = directory / "tree"
        run("repack", [], ("dpkg-deb", "-R", str(package), str(tree)), timeout=300)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace("1:0.", "1:99."))
        for module in tree.glob("usr/lib/ovn-docker/ovn_docker/__init__.py"):
            module.write_text('"""Later."""\n\n__version__ = "99"\n')
        name = package.name.replace("_0.", "_99.")
        run(
            "repack",
            [],
            ("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", str(tree), str(directory / name)),
            timeout=300,
        )
        shutil.rmtree(tree)


@pytest.fixture(scope="module", params=trees.SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def debs(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of a release."""
    return made_once(tmp_path_factory, f"debs-{suite}", lambda path: build(suite, path))


@pytest.fixture(scope="module")
def later(suite: str, debs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of a later version, 99."""
    return made_once(tmp_path_factory, f"later-{suite}", lambda path: repack(debs, path))


@pytest.fixture
def clean(suite: str, debs: Path, later: Path, tmp_path: Path) -> Iterator[Root]:
    """A minimal Debian, with the packages in /shared/debs and /shared/later."""
    shared = tmp_path / "shared"
    shutil.copytree(debs, shared / "debs", ignore=shutil.ignore_patterns("root"))
    shutil.copytree(later, shared / "later")
    root = Root(tmp_path / "root", trees.clean(suite), shared)
    yield root
    root.close()
