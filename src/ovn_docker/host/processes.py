"""Processes: find a daemon by the lock of its pidfile, and the start time of a process."""

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: l_type, l_whence, l_start, l_len (0: to the end), l_pid


def locked_by(pidfile: Path) -> int | None:
    """Return the number of the process that has locked *pidfile*; ``None`` if it is not locked.

    A daemon of OVS or OVN, and the driver, lock their pidfile for their life (ovs lib/daemon-unix.c,
    make_pidfile(); ovs/daemon.py): the kernel drops the lock when the process ends, however it ends. The
    number in a file that is not locked is that of a process that has ended, and may belong to another now.
    Raises OSError if there is no such file, or it may not be read.
    """
    with pidfile.open() as file:
        asked = fcntl.fcntl(file, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        kind, _, _, _, pid = _FLOCK.unpack(asked)
        if kind == fcntl.F_UNLCK:
            return None
        # 0: a process of a PID namespace that is not below ours (fcntl(2)); the file has its own number.
        return pid if pid > 0 else int(file.read())


def running(pidfile: Path) -> int | None:
    """Return the number of the daemon that has *pidfile*; ``None`` if it does not run."""
    try:
        return locked_by(pidfile)
    except (OSError, ValueError):
        return None


def started(pid: int, proc: Path = Path("/proc")) -> float:
    """Return when a process was started, in ticks since boot (proc(5), starttime).

    Raises OSError, ValueError.
    """
    try:
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except IndexError:
        raise ValueError(f"process {pid} has no start time") from None
