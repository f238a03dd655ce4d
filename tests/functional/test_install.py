"""`make install`, `make uninstall` and `make clean`, on a copy of this machine's file system.

The commands run as root, also with mistyped directories. So they see an overlay of this machine's files,
whose upper layer has all that they write and remove.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
PREFIX = "/opt/ovn-docker"
PARTS = ("Makefile", "scripts", "packaging", "src", "tools", "pyproject.toml", "README.md", "LICENSE")
UNITS = [f"ovn-docker-{mode}.{kind}" for mode in ("overlay", "underlay") for kind in ("service", "socket")]
UNITS += ["ovn-docker-live.service", "ovn-docker-enrolment.service"]

# $SRC is a copy of the sources. No systemd and no sockets: /run is empty.
BOOT = """
mount -t tmpfs none $TOP
mkdir $TOP/upper $TOP/work $TOP/root
lower=/
[ -z "$LAYER" ] || { cp -a $LAYER $TOP/layer; lower=$TOP/layer:/; }
mount -t overlay none -o lowerdir=$lower,upperdir=$TOP/upper,workdir=$TOP/work $TOP/root
cd $TOP/root
mkdir -p src
cp -a $SRC/. src/
cat /etc/resolv.conf >etc/resolv.conf
mount -t proc proc proc
mount -t tmpfs -o mode=755 none dev
for n in null zero full random urandom; do cp -a /dev/$n dev/; done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
mount -t tmpfs none run
mount -t tmpfs none tmp
echo ready
exec sleep infinity
"""


class Root:
    """A file system like this machine's, with the sources in /src, in a layer of changes of its own.

    Args:
        layer: changes to begin with, as another Root's `save` has kept them.

    """

    def __init__(self, directory: Path, layer: Path | None = None) -> None:
        self.top = directory / "top"
        self.top.mkdir()
        source = directory / "source"
        source.mkdir()
        for part in PARTS:
            if (SOURCE / part).is_dir():
                shutil.copytree(SOURCE / part, source / part)
            else:
                shutil.copy(SOURCE / part, source)
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
        self.process = subprocess.Popen(
            [*unshare, "sh", "-ec", BOOT],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "TOP": str(self.top),
                "SRC": str(source),
                "LAYER": str(layer or ""),
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

    def inside(self, *argv: str) -> list[str]:
        enter = ["nsenter", "-t", self.pid, "--mount", "--pid", "chroot", str(self.top / "root")]
        clean = ["env", "-i", "-C", "/src", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        return [*enter, *clean, *argv]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(*argv),
            capture_output=True,
            text=True,
            timeout=900,
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

    def changes(self) -> list[str]:
        """Return the paths that were written or removed outside of /src: those in the layer of changes."""
        find = ["find", f"{self.top}/upper", "-path", f"{self.top}/upper/src", "-prune", "-o"]
        listing = [*find, "-printf", "%y %m %s %C@ %P\\n"]
        enter = ["nsenter", "-t", self.pid, "--mount"]
        return sorted(subprocess.check_output([*enter, *listing], text=True).splitlines())

    def save(self, layer: Path) -> Path:
        """Copy the layer of changes, for other Roots."""
        subprocess.run(
            ["nsenter", "-t", self.pid, "--mount", "cp", "-a", f"{self.top}/upper", layer], check=True
        )
        return layer

    def versions(self) -> list[str]:
        return self.out("ls", f"{PREFIX}/versions").split()

    def version(self) -> str:
        """Return the version of the program that a user gets."""
        return self.out("/usr/local/bin/ovn-docker", "--version").split()[-1]

    def set_version(self, version: str) -> None:
        """Set the version of the sources."""
        self.sh(f"""sed -i 's/__version__ = .*/__version__ = "{version}"/' src/ovn_docker/__init__.py""")


KILLS = """#!/bin/sh
# Ends the script that runs this, at its stage, before the program does anything.
case "${0##*/} $*" in *"$STAGE"*) touch /tmp/killed; exec kill -9 $PPID ;; esac
exec /usr/bin/"${0##*/}" "$@"
"""

STAGES = {
    "mktemp -d": "0.1.0",
    f"mv -fT {PREFIX}/current.new": "0.1.0",
    "mv -fT /etc/systemd/system/ovn-docker-overlay.service.new": "0.2.0",
    f"rm -rf {PREFIX}/versions": "0.2.0",
}
"""The version that a user has when scripts/install is killed at a command."""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    root = Root(tmp_path)
    yield root
    root.close()


@pytest.fixture(scope="module")
def occupied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """A file system with foreign files in directories that a user may choose for PREFIX."""
    root = Root(tmp_path_factory.mktemp("occupied"))
    root.sh(
        """mkdir -p /opt/theirs/bin /opt/venv/bin /srv/empty /home/alice /root/own
        for d in /usr/local /usr/local/bin /opt /opt/theirs /opt/theirs/bin /home/alice /srv; do
            echo theirs >$d/file
        done
        ln -s /opt/theirs /opt/link
        ln -s /srv/empty /opt/link-to-empty
        touch /opt/file
        # An environment into which somebody has installed us by himself.
        touch /opt/venv/pyvenv.cfg /opt/venv/bin/ovn-docker-overlay-driver"""
    )
    yield root
    root.close()


REFUSED = {
    "no path": ["", "opt/x", "./x", "../x", "~/x"],
    "system": [
        "/",
        "/usr",
        "/etc",
        "/opt",
        "/srv",
        "/root",
        "/tmp",
        "/new",
        "/usr/local",
        "/usr/local/bin",
        "/var/lib",
    ],
    "in the system": ["/usr/ovn-docker", "/etc/ovn-docker", "/bin/x", "/lib/x", "/run/x", "/dev/shm/x"],
    "home": ["/home/alice", "/root", "/var/lib/misc/../../backups", "/var/backups"],
    "not plain": [
        "/opt/",
        "/opt/x/",
        "/opt//x",
        "/opt/./x",
        "/opt/x/../theirs",
        "/opt/theirs/../../usr/local",
    ],
    "symbolic link": ["/opt/link", "/opt/link/x", "/opt/link-to-empty", "/opt/link-to-empty/x"],
    "characters": [
        "/opt/a b",
        "/opt/x;touch /opt/y",
        "/opt/`touch /opt/y`",
        "/opt/x|y",
        "/opt/x&y",
        "/opt/x\ny",
    ],
    "theirs": ["/opt/theirs", "/opt/theirs/bin", "/opt/venv", "/opt/file"],
}


@pytest.mark.parametrize("action", ["install", "uninstall"])
@pytest.mark.parametrize("kind", REFUSED)
def test_foreign_directories_are_refused_and_survive(occupied: Root, kind: str, action: str) -> None:
    before = occupied.changes()
    for prefix in REFUSED[kind]:
        done = occupied.run("env", f"PREFIX={prefix}", "make", action)
        assert done.returncode != 0, prefix
        assert occupied.changes() == before, prefix
        (line,) = (line for line in done.stderr.splitlines() if not line.startswith("make: ***"))
        assert line.startswith(f"make {action}: "), line
        assert prefix.strip("/").replace("\n", "?") in line


@pytest.mark.parametrize("variable", ["PREFIX=/usr/local", "DESTDIR=/ PREFIX=/usr/local", "DESTDIR=opt"])
def test_foreign_directories_are_refused_as_make_variables_too(occupied: Root, variable: str) -> None:
    before = occupied.changes()
    for action in ("install", "uninstall"):
        assert occupied.run("make", action, *variable.split()).returncode != 0
        assert occupied.changes() == before


def test_foreign_destdir_survives(occupied: Root) -> None:
    """/opt/ovn-docker below DESTDIR is foreign, or a link that leads out of DESTDIR."""
    occupied.sh(f"mkdir -p /srv/tree{PREFIX} /srv/other/opt; echo theirs >/srv/tree{PREFIX}/theirs")
    occupied.sh(f"ln -s /opt/theirs /srv/other{PREFIX}")
    before = occupied.changes()
    for tree in ("/srv/tree", "/srv/other"):
        for action in ("install", "uninstall"):
            assert occupied.run("make", action, f"DESTDIR={tree}").returncode != 0
            assert occupied.changes() == before


def test_foreign_program_is_not_replaced(occupied: Root) -> None:
    occupied.sh("mkdir -p /srv/a/usr/local/bin; echo theirs >/srv/a/usr/local/bin/ovn-docker")
    before = occupied.changes()
    done = occupied.run("make", "install", "DESTDIR=/srv/a")
    assert "/srv/a/usr/local/bin/ovn-docker is not a link of make install: move it away" in done.stderr
    assert occupied.run("make", "uninstall", "DESTDIR=/srv/a").returncode == 0
    assert occupied.changes() == before


def test_unknown_mode_is_refused(occupied: Root) -> None:
    before = occupied.changes()
    done = occupied.run("make", "install", "MODE=both")
    assert "unknown MODE=both: use overlay or underlay" in done.stderr
    assert occupied.changes() == before


def test_clean_removes_nothing_outside_of_the_sources(occupied: Root) -> None:
    before = occupied.changes()
    for variable in ("VENV=/opt/theirs", "VENV=/", "BIN=/opt/theirs"):
        occupied.out("make", "clean", variable)
    assert occupied.changes() == before


MODES = {"d": {"root:root 755"}, "f": {"root:root 644", "root:root 755"}, "l": {"root:root 777"}}


def modes(tree: Path) -> dict[str, set[str]]:
    """Return owner and mode of each kind of file below a directory."""
    listing = subprocess.check_output(["find", tree, "-mindepth", "1", "-printf", "%y %u:%g %m\n"], text=True)
    found: dict[str, set[str]] = {}
    for line in listing.splitlines():
        kind, *rest = line.split()
        found.setdefault(kind, set()).add(" ".join(rest))
    return found


WAITS = (
    "import sys, ovn_docker; input(); import prometheus_client, ovn_docker.draw.page as p; print(p.__file__)"
)
"""A program that imports a module after its start."""


def start(root: Root, python: str) -> "subprocess.Popen[str]":
    argv = root.inside(python, "-I", "-c", f"print(flush=True); {WAITS}")
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "\n"
    return process


def end(process: "subprocess.Popen[str]") -> str:
    printed, _ = process.communicate("\n", timeout=120)
    assert process.returncode == 0
    return printed.strip()


@pytest.mark.slow
def test_upgrade_from_an_installation_without_stamp(root: Root) -> None:
    """Earlier versions wrote no stamp. Their programs import their own files after the upgrade."""
    root.sh(f"scripts/virtualenv {PREFIX} .; mkdir -p /usr/local/bin")
    root.sh(f"ln -sf {PREFIX}/bin/ovn-docker /usr/local/bin/")
    process = start(root, f"{PREFIX}/bin/python")
    root.set_version("0.2.0")
    root.out("make", "install")
    assert root.version() == "0.2.0"
    assert root.out(f"{PREFIX}/bin/ovn-docker", "--version").endswith(" 0.2.0")
    assert end(process).startswith(f"{PREFIX}/lib/python")
    root.out("make", "uninstall")
    assert root.run("test", "-e", PREFIX).returncode == 1


def test_installation_without_stamp_is_uninstalled_and_foreign_files_stay(root: Root) -> None:
    root.sh(
        f"""python3 -m venv --without-pip {PREFIX}
        echo . >{PREFIX}/.installed
        touch {PREFIX}/bin/ovn-docker {PREFIX}/bin/ovn-docker-overlay-driver {PREFIX}/theirs
        mkdir -p /usr/local/bin
        ln -s {PREFIX}/bin/ovn-docker /usr/local/bin/"""
    )
    said = root.out("make", "uninstall")
    assert f"{PREFIX} stays: it holds files that make install did not make" in said
    assert root.out("ls", "-A", PREFIX) == "theirs"
    assert root.run("test", "-L", "/usr/local/bin/ovn-docker").returncode == 1


def test_existing_directory_is_used_and_stays(root: Root) -> None:
    """The directory stays after a failed installation too."""
    root.sh("mkdir -p /srv/theirs")
    for prefix, stays in (("/srv/theirs", True), ("/srv/ours", False)):
        done = root.run("make", "install", f"PREFIX={prefix}", "PYTHON=/bin/false")
        assert "no Python 3.11" in done.stderr
        assert (root.run("test", "-d", prefix).returncode == 0) is stays
    assert root.out("ls", "-A", "/srv/theirs") == ""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory that one of the test processes fills and all of them use."""
    top = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent
    directory, done = top / name, top / f"{name}.done"
    with (top / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)  # the attempt of another process has failed
            directory.mkdir()
            make(directory)
            done.touch()
    return directory


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer of changes of an installation of version 0.1.0, with umask 0.

    Beside it are lists of the source tree's files, `before` and `after` the installation.
    """

    def make(directory: Path) -> None:
        root = Root(directory)
        try:
            root.set_version("0.1.0")
            root.sh("find /src -name __pycache__ -exec rm -r {} +")
            (directory / "before").write_text(root.out("find", "/src"))
            root.sh("umask 0; make install")
            (directory / "after").write_text(root.out("find", "/src"))
            root.save(directory / "layer")
        finally:
            root.close()

    return made_once(tmp_path_factory, "installed", make) / "layer"


@pytest.fixture
def installed(tmp_path: Path, layer: Path) -> Iterator[Root]:
    """A file system with version 0.1.0 installed, and the sources of 0.2.0."""
    root = Root(tmp_path, layer)
    root.set_version("0.2.0")
    yield root
    root.close()


@pytest.mark.slow
def test_installation_leaves_the_sources_as_they_are(layer: Path) -> None:
    assert layer.with_name("after").read_text() == layer.with_name("before").read_text()


@pytest.mark.slow
def test_modes_do_not_follow_the_umask(layer: Path) -> None:
    """test_systemd.py tests the other kind of umask, 077."""
    units, shared = layer / "etc/systemd/system", layer / "usr/local/share"
    assert modes(layer / PREFIX[1:]) == MODES
    assert modes(units) == {"f": {"root:root 644"}}
    assert {path.name for path in units.iterdir()} == set(UNITS)
    files = [path for path in shared.rglob("*") if path.is_file()]
    assert len(files) == 14
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    for program in ("ovn-docker", "ovn-docker-overlay-driver", "ovn-docker-underlay-driver"):
        link = layer / "usr/local/bin" / program
        assert str(link.readlink()) == f"{PREFIX}/current/bin/{program}"
        (file,) = (layer / PREFIX[1:] / "versions").glob(f"*/bin/{program}")
        assert file.stat().st_mode & 0o777 == 0o755
    assert not (layer / PREFIX[1:] / "build").exists()


@pytest.mark.slow
def test_programs_ignore_the_python_environment(installed: Root) -> None:
    installed.sh("echo 'raise SystemExit(9)' >/tmp/msgspec.py; cp /tmp/msgspec.py /tmp/argparse.py")
    for program in ("ovn-docker", "ovn-docker-overlay-driver"):
        said = installed.sh(f"cd /tmp; PYTHONPATH=/tmp /usr/local/bin/{program} --version")
        assert said.endswith(" 0.1.0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "fault", "complaint"),
    [
        ("requirements-build.txt", "s/sha256:[0-9a-f]\\{4\\}/sha256:0000/", "DO NOT MATCH THE HASHES"),
        ("requirements-build.txt", "/^pluggy==/,/[^\\\\]$/d", "pluggy"),
        ("requirements.txt", "s/sha256:[0-9a-f]\\{4\\}/sha256:0000/", "DO NOT MATCH THE HASHES"),
        ("requirements.txt", "/^waitress==/,/[^\\\\]$/d", "waitress"),
    ],
    ids=["another build tool", "a build tool not pinned", "another package", "a package not pinned"],
)
def test_failed_installation_keeps_the_previous_version(
    installed: Root, file: str, fault: str, complaint: str
) -> None:
    versions = installed.versions()
    installed.sh(f"sed -i '{fault}' packaging/{file}")
    done = installed.run("make", "install")
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "make install: failed; nothing that was installed before has changed\n" in done.stderr
    assert (installed.version(), installed.versions()) == ("0.1.0", versions)
    assert installed.run("test", "-e", f"{PREFIX}/build").returncode == 1


@pytest.mark.slow
def test_two_installations_at_once_are_refused(installed: Root) -> None:
    stamp = f"{PREFIX}/.ovn-docker-installation"
    locked = installed.inside("flock", stamp, "sh", "-c", "echo locked; cat")
    with subprocess.Popen(locked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "locked\n"
        for action in ("install", "uninstall"):
            said = installed.run("make", action).stderr
            assert f"make {action}: another make install or uninstall runs in {PREFIX}" in said
        assert holder.stdin
        holder.stdin.close()


@pytest.mark.slow
def test_upgrade_keeps_the_files_of_a_running_program(installed: Root) -> None:
    (old,) = installed.versions()
    process = start(installed, f"{PREFIX}/versions/{old}/bin/python")
    installed.out("make", "install")
    assert installed.version() == "0.2.0"
    assert set(installed.versions()) > {old}
    assert end(process).startswith(f"{PREFIX}/versions/{old}/")


@pytest.mark.slow
def test_installation_that_is_killed_leaves_a_version_that_works(installed: Root) -> None:
    tools = "mkdir /tmp/trap; cat >/tmp/trap/kill; chmod 755 /tmp/trap/kill; cd /tmp/trap"
    script = f"{tools}; for tool in mv rm mktemp; do ln -s kill $tool; done"
    subprocess.run(installed.inside("sh", "-ec", script), input=KILLS, text=True, check=True)
    path = "PATH=/tmp/trap:/usr/sbin:/usr/bin:/sbin:/bin"
    for stage, version in STAGES.items():
        installed.run("env", path, f"STAGE={stage}", f"PREFIX={PREFIX}", "scripts/install", "install")
        assert installed.run("rm", "/tmp/killed").returncode == 0, stage
        assert installed.version() == version, stage
        for unit in UNITS:
            assert "[Install]" in installed.out("cat", f"/etc/systemd/system/{unit}")
    installed.set_version("0.3.0")
    installed.out("make", "install")
    assert (installed.version(), len(installed.versions())) == ("0.3.0", 1)
    assert installed.run("test", "-e", f"{PREFIX}/build").returncode == 1


@pytest.mark.slow
def test_uninstall_removes_what_install_made_and_nothing_else(installed: Root) -> None:
    installed.sh(f"echo theirs >{PREFIX}/theirs; echo theirs >/usr/local/share/man/man8/theirs.8")
    installed.out("make", "install", "PREFIX=/srv/second")
    assert "/srv/second/current/bin" in installed.run("make", "uninstall", "PREFIX=/opt/other").stderr
    assert "Units and links stay" in installed.out("make", "uninstall")
    assert installed.out("ls", "-A", PREFIX) == "theirs"
    assert installed.version() == "0.2.0"
    installed.out("make", "uninstall", "PREFIX=/srv/second")
    places = ("/usr/local", "/opt", "/srv", "/etc/systemd")
    found = installed.out("find", *places, "-name", "*ovn-docker*", "-not", "-path", f"{PREFIX}*")
    assert found == ""
    assert installed.run("test", "-e", "/srv/second").returncode == 1
    assert installed.out("cat", "/usr/local/share/man/man8/theirs.8") == "theirs"
    installed.out("make", "uninstall", "PREFIX=/srv/second")
