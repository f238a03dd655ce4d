"""Settings of our own processes: the search path for other programs, the umask, memory, and no core files.

A shell takes an empty entry of PATH for the current directory (POSIX, Base Definitions 8.3), and so do
execvp(3) and Python. Run by root in another user's directory, a program of ours would run that user's
``ovs-vsctl``.
"""

import ctypes
import os
import resource
from contextlib import suppress

_M_ARENA_MAX = -8  # malloc.h

SYSTEM = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def set_search_path() -> None:
    """Remove the current directory from PATH, for this process and its children.

    Each of our programs does this first; no other code sets the search path.
    """
    os.environ["PATH"] = search_path(os.environ.get("PATH", ""))


def search_path(path: str) -> str:
    """Return the absolute directories of a PATH, followed by those of the system."""
    absolute = [directory for directory in path.split(os.pathsep) if directory.startswith("/")]
    return os.pathsep.join(dict.fromkeys([*absolute, *SYSTEM]))


def narrow_umask() -> None:
    """Let only the owner write to files that this process makes, whatever umask it has inherited."""
    os.umask(os.umask(0o077) | 0o022)


def share_one_arena() -> None:
    """Have all threads take memory from one arena of malloc (mallopt(3)). Call it before the first thread.

    By default glibc gives up to eight threads of each processor an arena of their own, whose free parts the
    others do not use: with short calls in many threads a process grows by some MiB over thousands of calls.
    Python runs one thread at a time, so that one arena delays none.
    """
    with suppress(AttributeError):  # another libc than glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def forbid_core_files() -> None:
    """Keep the kernel from writing a core file, which would contain the password or the certificate's key."""
    with suppress(OSError, ValueError):  # ValueError: setrlimit(2) fails where the unit has LimitCORE=0
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
