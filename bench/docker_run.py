"""Measures 4 and 5: the time of ``docker run``, and the first packets of a container."""

from typing import Any

from bench.laboratory import OLD_PLUGIN, Laboratory, python
from bench.report import Line, p50, p99
from e2e.lab import Host

NETWORKS = {
    "ours": ("-d", "openvswitch", "--subnet=10.20.0.0/16"),
    "ours internal": ("-d", "openvswitch", "--internal", "--subnet=10.21.0.0/16"),
    "bridge internal": ("--internal", "--subnet=10.22.0.0/16"),
    "user's bridge": ("--subnet=10.24.0.0/16",),
    "old driver": ("-d", OLD_PLUGIN, "--subnet=10.23.0.0/16"),
}
"""Name to the arguments of ``docker network create``."""


def wall_time(laboratory: Laboratory, rounds: int) -> tuple[list[Line], dict[str, Any]]:
    """Measure ``docker run --rm`` on every kind of network."""
    host = laboratory.central
    networks = {"none": "none", "bridge": "bridge", **_networks(host, NETWORKS)}
    plan = {"what": "wall_times", "networks": networks, "rounds": rounds}
    with laboratory.favoured(host):
        times = laboratory.python(host, "bench.containers", plan)
    s = {name: p50(seconds) for name, seconds in times.items()}
    internal, outside = s["ours internal"] / s["bridge internal"], s["ours"] / s["bridge"]
    resolver = s["user's bridge"] - s["bridge"]
    lines = [
        Line("4 docker run, internal network, p50", s["ours internal"], "s", s["bridge internal"],
             "internal bridge", "≤ 0.9 of theirs", internal <= 0.9),
        Line("4 docker run, network, p50", s["ours"], "s", s["bridge"],
             "bridge", "≤ 1.1 of theirs", outside <= 1.1),
        Line("4 docker run, network, p50", s["ours"], "s", s["user's bridge"], "user's bridge"),
        Line("4 docker run, internal network, p50", s["ours internal"], "s", s["user's bridge"],
             "user's bridge"),
        Line("4 docker run, Docker's resolver on every network but its bridge, p50", resolver, "s"),
        Line("4 docker run, network, p50", s["ours"], "s", s["old driver"], "old driver"),
        Line("4 docker run, internal network, p50", s["ours internal"], "s", s["none"], "no network"),
    ]  # fmt: skip
    return lines, {name: {"p50_s": p50(t), "p99_s": p99(t), "all_s": t} for name, t in times.items()}


def packets_lost(laboratory: Laboratory, containers: int) -> tuple[list[Line], dict[str, Any]]:
    """Count lost first packets of new containers to a container that is running."""
    host = laboratory.central
    networks = _networks(host, {name: NETWORKS[name] for name in ("ours", "old driver")})
    targets = {}
    for name, network in networks.items():
        container = host.docker("run", "-d", f"--net={network}", "busybox", "sleep", "86400")
        targets[name] = network, address_of(host, container)
    lost = python(
        host, "bench.containers", {"what": "packets_lost", "targets": targets, "containers": containers}
    )
    ours, old = sum(lost["ours"]), sum(lost["old driver"])
    what = f"5 of {5 * containers} first packets of {containers} containers lost"
    return [Line(what, ours, "", old, "old driver", "0", ours == 0)], lost


def address_of(host: Host, container: str) -> str:
    """Return the address of a container that is on one network."""
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return host.docker("inspect", f"--format={address}", container)


def _networks(host: Host, wanted: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Return Docker's names of the networks; make those that are missing."""
    there = host.docker("network", "ls", "--format={{.Name}}").split()
    names = {name: "bench-" + name.replace(" ", "-").replace("'", "") for name in wanted}
    for name, network in names.items():
        if network not in there:
            host.docker("network", "create", *wanted[name], network)
    return names
