"""The driver that OVN ships, from Debian's package, with a fix for the crash at its start.

On Python 3 ``call_popen`` returns bytes, and ``bytes.strip('"')`` raises TypeError: the copy that runs here
reads text. Nothing else is changed, and nothing is installed.
"""

import subprocess
import tempfile
from pathlib import Path

PACKAGE = "ovn-docker"
PROGRAM = "usr/bin/ovn-docker-overlay-driver"
PORT = 5000
CRASH = "subprocess.Popen(cmd, stdout=subprocess.PIPE)"
MENDED = "subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True)"


def source(cache: Path) -> str:
    """Return the text of the program with the fix; the package is fetched once and kept in *cache*."""
    packages = list(cache.glob(f"{PACKAGE}_*.deb"))
    if not packages:
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=cache, check=True)
        packages = list(cache.glob(f"{PACKAGE}_*.deb"))
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "--extract", packages[-1], directory], check=True)
        program = Path(directory, PROGRAM).read_text()
    if CRASH not in program:
        raise RuntimeError(f"{packages[-1].name} is not the driver that we know: no {CRASH!r} in it")
    return program.replace(CRASH, MENDED)
