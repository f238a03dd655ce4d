"""Calls go down only, and each third-party package is known to few modules."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovn_docker

ROOT = Path(ovn_docker.__file__).parent

LAYERS = {
    "ground": {"", "deadline", "directory", "errors", "metrics", "model", "options", "settings", "supply"},
    "decisions": {"cluster", "driver", "ipam", "names", "sweep"},
    "plugin": {"plugin", "plugin.exposition", "plugin.server", "plugin.sockets", "plugin.wire"},
    "host": {
        "host",
        "host.controller",
        "host.driver",
        "host.engine",
        "host.links",
        "host.nameservers",
        "host.netlink",
        "host.ovsdb",
        "host.ping",
        "host.statistics",
        "host.vswitch",
    },
    "backends": {
        "backends",
        "backends.addresses",
        "backends.dns",
        "backends.forget",
        "backends.leases",
        "backends.networks",
        "backends.neutron",
        "backends.northbound",
        "backends.openrc",
        "backends.overlay",
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
        "view.page",
        "view.probes",
        "view.snapshot",
        "view.svg",
        "view.trace",
    },
    "cli": {
        "cli",
        "cli.arguments",
        "cli.central",
        "cli.clients",
        "cli.completion",
        "cli.daemon",
        "cli.doctor",
        "cli.forget",
        "cli.graph",
        "cli.host",
        "cli.inspect",
        "cli.logs",
        "cli.ls",
        "cli.main",
        "cli.names",
        "cli.reference",
        "cli.persistence",
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
    "ovs": {"cli.daemon", "cli.logs", "host.controller", "host.ovsdb"},
    "prometheus_client": {"plugin.exposition"},
    "waitress": {"plugin.exposition", "plugin.server"},
}
"""The modules that may import each package from elsewhere."""


def modules() -> dict[str, Path]:
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for name, path in named.items()}


MODULES = modules()


def layer_of(module: str) -> str:
    (layer,) = (layer for layer, members in LAYERS.items() if module in members)
    return layer


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that the file imports, at the top or anywhere within."""
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


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_nothing_from_above(module: str) -> None:
    layer = layer_of(module)
    for name in imports(MODULES[module]):
        if name == "ovn_docker" or name.startswith("ovn_docker."):
            imported = layer_of(name.removeprefix("ovn_docker").lstrip("."))
            assert imported in BELOW[layer] | {layer}, f"{module} ({layer}) imports {name} ({imported})"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_third_party_packages_stay_where_they_belong(module: str) -> None:
    for name in imports(MODULES[module]):
        package = name.partition(".")[0]
        if package != "ovn_docker" and package not in sys.stdlib_module_names:
            assert module in THIRD_PARTY.get(package, set()), f"{module} imports {name}"


def test_the_tables_themselves_are_not_stale() -> None:
    assert BELOW.keys() == LAYERS.keys()
    assert set().union(*THIRD_PARTY.values()) <= MODULES.keys()
    for package, allowed in THIRD_PARTY.items():
        users = {
            module
            for module, path in MODULES.items()
            if package in {n.partition(".")[0] for n in imports(path)}
        }
        assert users, f"nobody imports {package}"
        assert users <= allowed
