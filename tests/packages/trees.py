"""Debian trees, built once and kept: clean ones to install packages in, others with tools to build them."""

import zlib
from pathlib import Path

from e2e.lab.command import run
from e2e.lab.images import built_once

SUITES = ("bookworm", "trixie")

TOOLS = "build-essential debhelper dh-python python3-venv"
"""Debian's packages that build ours, as in scripts/debian-packages."""

WANTED = (
    "openvswitch-switch ovn-host nftables iptables iproute2 python3 python3-openvswitch "
    "python3-sortedcontainers "
    "python3-prometheus-client python3-waitress python3-openstacksdk python3-cryptography python3-decorator "
    "python3-dogpile.cache python3-jmespath python3-jsonpatch python3-pbr python3-psutil python3-yaml "
    "python3-requests ovn-docker man-db"
)
"""Packages that apt can install in a clean tree: our dependencies, and Debian's package of our name."""

_MORE = {"bookworm": "", "trixie": "python3-msgspec"}


def clean(suite: str) -> Path:
    """Return a minimal Debian; apt has the archives of `WANTED`, so that no test needs the network."""
    wanted = f"{WANTED} {_MORE[suite]}".split()

    def build(path: Path) -> None:
        _debootstrap(suite, path)
        _apt(path, "update")
        _apt(path, "install", "--download-only", "--no-install-recommends", *wanted)

    return built_once(_name("clean", suite, *wanted), build)


def tools(suite: str) -> Path:
    """Return a Debian with the tools that build packages."""

    def build(path: Path) -> None:
        _debootstrap(suite, path)
        _apt(path, "update")
        _apt(path, "install", "--no-install-recommends", *TOOLS.split())

    return built_once(_name("tools", suite, TOOLS), build)


def _name(kind: str, suite: str, *contents: str) -> str:
    return f"{kind}-{suite}-{zlib.crc32(' '.join(contents).encode()):08x}"


def _debootstrap(suite: str, path: Path) -> None:
    run("tree", [], ("debootstrap", "--variant=minbase", suite, str(path)), timeout=1800)
    (path / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    # As in containers: nothing is started when it is installed.
    (path / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (path / "usr/sbin/policy-rc.d").chmod(0o755)


def _apt(path: Path, *arguments: str) -> None:
    command = ("chroot", str(path), "apt-get", "-q", "--yes", *arguments)
    run("tree", [], command, timeout=1800, env={"DEBIAN_FRONTEND": "noninteractive"})
