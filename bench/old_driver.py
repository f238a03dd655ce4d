"""The driver that OVN ships, from Debian's package, with the one crash mended that keeps it from starting.

On Python 3 ``call_popen`` returns bytes, and ``bytes.strip('"')`` raises TypeError: the copy that runs here
reads text. Nothing else is changed, and nothing is installed.
"""

import subprocess
from pathlib import Path

PROGRAM = "usr/bin/ovn-docker-overlay-driver"
PORT = 5000
CRASH = "subprocess.Popen(cmd, stdout=subprocess.PIPE)"
MENDED = "subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True)"


def fetch(directory: Path) -> Path:
    """Unpack the package below *directory*; returns the path of a program that starts."""
    subprocess.run(["apt-get", "download", "-qq", "ovn-docker"], cwd=directory, check=True,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    (package,) = directory.glob("ovn-docker_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, directory], check=True)
    program = directory / PROGRAM
    source = program.read_text()
    if CRASH not in source:
        raise RuntimeError(f"{package.name} is not the driver that we know: no {CRASH!r} in it")
    program.write_text(source.replace(CRASH, MENDED))
    return program
