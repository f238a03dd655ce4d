"""The variables that the driver's unit gives it: login and settings (packaging/systemd)."""

from collections.abc import Mapping
from pathlib import Path

FILE = Path("/etc/default/ovn-docker")


def environment(given: Mapping[str, str], file: Path = FILE) -> dict[str, str]:
    """Variables as the driver has them: its unit's, and those that were *given* here."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if "=" in line)
    found = {key: value.strip().strip("\"'") for key, _, value in pairs if not key.startswith("#")}
    return {**found, **given}
