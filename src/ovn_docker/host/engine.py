"""What kind of Docker engine runs here: found out without asking it, for it may be asking us."""

import json
from pathlib import Path

_CONFIG = Path("/etc/docker/daemon.json")


def has_cluster_store(proc: Path = Path("/proc"), config: Path = _CONFIG) -> bool:
    """Whether dockerd was started with ``--cluster-store``, which engines before 24 know.

    With it networks of a driver of scope ``global`` are the same on all hosts (dockerd(8), 20.10).
    """
    configs = {config}
    for arguments in _dockerd_arguments(proc):
        for argument, value in zip(arguments, [*arguments[1:], ""], strict=True):
            name, _, inline = argument.partition("=")
            if name == "--cluster-store":
                return True
            if name == "--config-file":
                configs.add(Path(inline or value))
    return any("cluster-store" in _settings(path) for path in configs)


def _dockerd_arguments(proc: Path) -> list[list[str]]:
    found = []
    for process in proc.glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "dockerd":
                found.append((process / "cmdline").read_bytes().decode(errors="replace").split("\0"))
        except OSError:
            continue  # it has ended meanwhile
    return found


def _settings(path: Path) -> dict[str, object]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
