"""Files that are replaced whole or not at all, and are on the disk afterwards."""

import os
from pathlib import Path


def replace_file(path: Path, text: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file in the place of the one at *path*, if there is one.

    *mode* counts whatever the umask is; *owner*: user and group, by default those of the process. Raises
    OSError.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # of a process that was killed
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(text.encode())
        if owner:
            os.fchown(number, *owner)
        os.fchmod(number, mode)
        file.flush()
        os.fsync(number)
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
