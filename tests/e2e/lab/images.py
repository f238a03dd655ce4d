"""Files that the lab builds once and keeps: container images, and root file systems with newer Docker."""

import fcntl
import os
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from e2e.lab.command import run

REPOSITORY = Path(__file__).parents[3]

# Versions of Docker, and the Debian release with each; 20.10 is that of the machine.
SUITES = {"26.1": "trixie", "28.5": "sid"}
PACKAGES = (
    "busybox-static,containerd,docker-cli,docker-compose,docker.io,iproute2,iptables,nftables,"
    "openvswitch-switch,ovn-central,ovn-host,tini"
)


def cache() -> Path:
    """Return the directory of the cached files."""
    directory = Path(os.environ.get("OVN_DOCKER_TEST_CACHE", "/var/cache/ovn-docker-tests"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def image(name: str) -> Path:
    """Return an archive for `docker import` of the files of an image: "busybox" or "tools"."""

    def build(path: Path) -> None:
        with tarfile.open(path, "w", dereference=True) as tar:
            {"busybox": _add_busybox, "tools": _add_tools}[name](tar)

    return built_once(f"{name}.tar", build)


def plugin() -> Path:
    """Return an archive of Docker's managed plugin, with the driver as it is now.

    The packages of the distribution and of PyPI in it are those of the first build.
    """
    needed = (REPOSITORY / "packaging" / "requirements.txt").read_bytes()
    build = built_once(f"plugin-wheels-{zlib.crc32(needed):08x}", _build_wheels)
    path = cache() / f"plugin-{os.getpid()}"
    files = {"BUILD": str(build), "ROOT": str(cache() / "plugin-base"), "DIST": str(path)}
    with Path(cache(), "plugin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("lab", [], (str(REPOSITORY / "scripts" / "plugin"),), env=files, timeout=900)
    archive = path.with_suffix(".tar")
    run("lab", [], ("tar", f"--directory={path / 'plugin'}", f"--file={archive}", "--create", "."))
    run("lab", [], ("rm", "-rf", str(path)))
    return archive


def _build_wheels(path: Path) -> None:
    run("lab", [], (str(REPOSITORY / "scripts" / "wheels"), str(path), "requirements.txt"), timeout=900)


def system(engine: str) -> Path:
    """Return the root file system for a version of Docker; building it takes one or two minutes."""
    if engine == "20.10":
        return Path("/")

    def build(path: Path) -> None:
        command = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITES[engine], str(path))
        run("lab", [], command, timeout=1800)

    return built_once(f"docker-{engine}-{zlib.crc32(PACKAGES.encode()):08x}", build)


def shared(engine: str) -> list[Path]:
    """Return the directories of the machine that a host must share: this repository and the Python in use."""
    paths = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}
    if Path("/usr") in paths:  # the tests run on Debian's own Python
        paths.remove(Path("/usr"))
        if engine != "20.10":  # it would replace that of the other Debian release
            paths |= {Path("/usr/bin/python3"), Path(os.__file__).parent}
    return sorted(paths)


def built_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return a cached file or directory; it is built under another name, so that it is never incomplete."""
    path = cache() / name
    if path.exists():
        return path
    with Path(cache(), f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_name(f"{name}.partial")
            run("lab", [], ("rm", "-rf", str(partial)))
            build(partial)
            partial.rename(path)
    return path


def _add_busybox(tar: tarfile.TarFile, directory: str = "bin") -> None:
    tar.add("/bin/busybox", f"{directory}/busybox")
    present = set(tar.getnames())
    for applet in _lines("busybox", "--list"):
        if f"{directory}/{applet}" not in present:
            _add_link(tar, f"{directory}/{applet}", "busybox")


def _add_tools(tar: tarfile.TarFile) -> None:
    for directory in ("bin", "lib", "lib64", "sbin"):
        _add_link(tar, directory, f"usr/{directory}")
    (library,) = _lines("/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))")
    tar.add(library, library[1:], filter=_needed)
    programs = [Path("/usr/bin/python3"), Path("/usr/bin/ip"), *Path(library, "lib-dynload").glob("*.so")]
    for program in programs[:2]:
        tar.add(program, str(program)[1:])
    for shared_object in sorted(_shared_objects(programs)):
        tar.add(shared_object, str(shared_object)[1:])
    _add_busybox(tar, "usr/bin")


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return a file of Python's library, or None for tests, IDLE and the files for linking programs."""
    name = Path(member.name).name
    return None if name in {"test", "idlelib", "ensurepip"} or name.startswith("config-") else member


def _shared_objects(programs: list[Path]) -> set[Path]:
    """Return the shared libraries of programs, by their paths below /usr."""
    words = {word for line in _lines("ldd", *map(str, programs)) for word in line.split()}
    paths = [Path(word) for word in words if word.startswith("/") and not word.endswith(":")]
    return {path.parent.resolve() / path.name for path in paths}


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    tar.addfile(link)


def _lines(*argv: str) -> list[str]:
    return run("lab", [], argv).splitlines()
