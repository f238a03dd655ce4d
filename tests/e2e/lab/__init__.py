"""Several real hosts on one machine, for the end-to-end tests."""

from e2e.lab.command import CommandError, LabError, wait_for
from e2e.lab.fabric import Fabric, missing
from e2e.lab.host import Host

__all__ = ["CommandError", "Fabric", "Host", "LabError", "missing", "wait_for"]
