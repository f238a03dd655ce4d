"""Calls go down only, and each third-party package is known to few modules."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import ovn_docker

ROOT = Path(ovn_docker.__file__).parent

LAYERS = {
    "ground": {
        "",
        "allowed",
        "deadline",
        "definition",
        "directory",
        "errors",
        "hostnames",
        "metrics",
        "model",
        "options",
        "printable",
        "programs",
        "settings",
        "spelling",
        "supply",
        "threads",
    },
    "decisions": {"cluster", "creations", "driver", "ipam", "names", "reconcile"},
    "plugin": {
        "plugin",
        "plugin.connections",
        "plugin.exposition",
        "plugin.server",
        "plugin.sockets",
        "plugin.wire",
    },
    "host": {
        "host",
        "host.announcement",
        "host.clock",
        "host.barrier",
        "host.controller",
        "host.driver",
        "host.engine",
        "host.environment",
        "host.links",
        "host.nameservers",
        "host.netlink",
        "host.ovsdb",
        "host.parser",
        "host.ping",
        "host.places",
        "host.processes",
        "host.router_guard",
        "host.statistics",
        "host.tls",
        "host.vswitch",
    },
    "backends": {
        "backends",
        "backends.addresses",
        "backends.allowed_claims",
        "backends.displaced",
        "backends.dns",
        "backends.forget",
        "backends.leases",
        "backends.leftovers",
        "backends.networks",
        "backends.neutron",
        "backends.northbound",
        "backends.openrc",
        "backends.overlay",
        "backends.records",
        "backends.remake",
        "backends.reports",
        "backends.shared",
        "backends.trunk",
        "backends.underlay",
    },
    "view": {
        "view",
        "view.check_cloud",
        "view.check_cluster",
        "view.check_endpoints",
        "view.check_host",
        "view.checks",
        "view.cloud",
        "view.cluster",
        "view.dot",
        "view.gather",
        "view.graph",
        "view.health",
        "view.machine",
        "view.iptables",
        "view.ml2_ovn",
        "view.page",
        "view.probes",
        "view.snapshot",
        "view.svg",
        "view.trace",
        "view.trace_cloud",
    },
    "cli": {
        "cli",
        "cli.access",
        "cli.arguments",
        "cli.backup",
        "cli.barrier",
        "cli.beyond",
        "cli.bridge",
        "cli.central",
        "cli.clients",
        "cli.completion",
        "cli.control",
        "cli.copies",
        "cli.daemon",
        "cli.databases",
        "cli.defaults",
        "cli.doctor",
        "cli.forget",
        "cli.gc",
        "cli.graph",
        "cli.guard",
        "cli.host",
        "cli.inspect",
        "cli.listeners",
        "cli.login",
        "cli.logs",
        "cli.ls",
        "cli.main",
        "cli.members",
        "cli.nameservers",
        "cli.network",
        "cli.output",
        "cli.reach",
        "cli.reference",
        "cli.persistence",
        "cli.pki",
        "cli.setup",
        "cli.status",
        "cli.steps",
        "cli.tcpdump",
        "cli.trace",
        "cli.underlay",
        "cli.usage",
        "cli.uplink",
    },
}
"""Every module of ours, without the leading ``ovn_docker.``: a new one needs a place here."""

BELOW = {
    "ground": set(),
    "decisions": {"ground"},
    "plugin": {"ground", "decisions"},
    "host": {"ground"},
    "backends": {"ground", "host"},
    "view": {"ground", "host", "backends"},
    "cli": LAYERS.keys(),
}
"""The layers that each may import, besides its own."""

THIRD_PARTY = {
    "keystoneauth1": {"backends.neutron"},
    "msgspec": {"plugin.wire"},
    "openstack": {"backends.neutron"},
    "ovs": {"cli.control", "cli.daemon", "cli.logs", "host.ovsdb", "host.parser", "host.tls"},
    "prometheus_client": {"plugin.exposition"},
    "waitress": {"plugin.connections", "plugin.exposition", "plugin.server"},
}
"""The modules that may import each package from elsewhere."""


def modules() -> dict[str, Path]:
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for name, path in named.items()}


MODULES = modules()


def layer_of(module: str) -> str:
    (layer,) = (layer for layer, members in LAYERS.items() if module in members)
    return layer


@cache
def imports(module: str) -> frozenset[str]:
    """Full names of the modules that ours imports, at the top or anywhere within."""
    return frozenset(_imports(MODULES[module]))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("ovn_docker.") in MODULES else str(node.module)


def test_every_module_has_its_place() -> None:
    placed = [module for members in LAYERS.values() for module in members]
    assert sorted(placed) == sorted(MODULES), "name the new module in LAYERS; each in one layer only"


def test_no_module_imports_from_above() -> None:
    wrong = []
    for module in sorted(MODULES):
        layer = layer_of(module)
        for name in sorted(imports(module)):
            if name == "ovn_docker" or name.startswith("ovn_docker."):
                imported = layer_of(name.removeprefix("ovn_docker").lstrip("."))
                if imported not in BELOW[layer] | {layer}:
                    wrong.append(f"{module} ({layer}) imports {name} ({imported})")
    assert wrong == []


def test_third_party_packages_stay_where_they_belong() -> None:
    wrong = []
    for module in sorted(MODULES):
        for name in sorted(imports(module)):
            package = name.partition(".")[0]
            known = package == "ovn_docker" or package in sys.stdlib_module_names
            if not known and module not in THIRD_PARTY.get(package, set()):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_tables_themselves_are_not_stale() -> None:
    assert BELOW.keys() == LAYERS.keys()
    assert set().union(*THIRD_PARTY.values()) <= MODULES.keys()
    for package, allowed in THIRD_PARTY.items():
        users = {
            module for module in MODULES if package in {name.partition(".")[0] for name in imports(module)}
        }
        assert users == allowed, f"of those, some do not import {package}"
