"""Programs of this package, as set-up starts them."""

import shutil
import sys
from pathlib import Path

from ovn_docker.errors import Unavailable


def find_program(name: str) -> str:
    """Return the path of the program installed beside this one, else of the one on PATH.

    A link on PATH to the former is preferred: it is valid after an upgrade too.

    Raises:
        Unavailable: the program is not installed.

    """
    beside, program = Path(sys.executable).parent / name, shutil.which(name)
    if beside.exists() and not (program and beside.samefile(program)):
        return str(beside)
    if program is None:
        raise Unavailable(
            f"{name} is not installed; run `make install` or `pip install .` in the source tree"
        )
    return program
