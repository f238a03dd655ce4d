"""Directories in which other programs are found.

A shell takes an empty entry of PATH for the current directory (POSIX, Base Definitions 8.3), and so do
execvp(3) and Python. Run by root in another user's directory, a program of ours would run that user's
``ovs-vsctl``.
"""

import os

SYSTEM = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def set_search_path() -> None:
    """Remove the current directory from PATH, for this process and all that it runs.

    Each program of ours does this first. No other code decides where programs are found.
    """
    os.environ["PATH"] = search_path(os.environ.get("PATH", ""))


def search_path(path: str) -> str:
    """The absolute directories of a PATH, and behind them those of the system."""
    absolute = [directory for directory in path.split(os.pathsep) if directory.startswith("/")]
    return os.pathsep.join(dict.fromkeys([*absolute, *SYSTEM]))
