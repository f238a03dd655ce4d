"""Rules for the folders of the package: directions of imports, and unique names."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import ovn_docker

ROOT = Path(ovn_docker.__file__).parent

_HOST = {"host", "host.kernel", "host.ovsdb"}
_OVN = {"backends.ovn", "backends.ovn.networks", "backends.ovn.repair", "backends.ovn.shared"}
_BACKENDS = {*_OVN, "backends.neutron"}
_SETUP = {"setup", "setup.central", "setup.hosts"}

BELOW = {
    "text": set(),
    "policy": set(),
    "": {"text", "policy"},
    "core": {"", "text"},
    "docker": {"", "text"},
    "host": {"", "text", "docker", "host.kernel", "host.ovsdb"},
    "host.kernel": {"", "text"},
    "host.ovsdb": {""},
    "backends": set(),
    "backends.ovn": {"", "policy", "host", "host.ovsdb"},
    "backends.ovn.shared": {"", "text", "host", "host.ovsdb", "backends.ovn"},
    "backends.ovn.networks": {"", "host", "host.ovsdb", "backends.ovn", "backends.ovn.shared"},
    "backends.ovn.repair": {"", "host", "host.ovsdb", *(_OVN - {"backends.ovn.repair"})},
    "backends.neutron": {""},
    "web": {"", "text", "docker"},
    "daemon": {"", "text", "core", "docker", *_HOST, *_BACKENDS, "web", "setup", "enrolment"},
    "setup": {"", "text", "docker", *_HOST},
    "setup.central": {"", "text", "host", "host.ovsdb", "backends.ovn.shared", "setup"},
    "setup.hosts": {"", "policy", "text", "docker", "host", "host.ovsdb", *_OVN, "setup", "setup.central"},
    "enrolment": {"", "text", "docker", "host", "host.ovsdb", *_SETUP},
    "uplink": {"", "text", "host", "host.kernel", "setup", "setup.hosts"},
    "inspect": {"", "text", "docker", *_HOST, *_BACKENDS},
    "trace": {"", "text", *_HOST, "backends.ovn", "inspect"},
    "doctor": {"", "text", "core", "docker", *_HOST, *_BACKENDS, "inspect"},
    "draw": {"", "text", "inspect"},
    "live": {"", "text", "host", "inspect", "trace", "doctor", "draw", "web"},
    "installation": {"", "text", "daemon", "host", "setup"},
    "cli": {
        "",
        "policy",
        "text",
        "core",
        "docker",
        *_HOST,
        *_BACKENDS,
        *_SETUP,
        "enrolment",
        "uplink",
        "inspect",
        "trace",
        "doctor",
        "draw",
        "live",
        "web",
        "installation",
    },
}
"""The folders that the modules of each may import from, besides its own. The package itself is ""."""

THIRD_PARTY = {
    "keystoneauth1": {"backends.neutron.api"},
    "msgspec": {
        "backends.neutron.resources",
        "docker.wire",
        "enrolment.enquiry",
        "enrolment.messages",
        "enrolment.enrolment_service",
        "live.peers",
    },
    "openstack": {"backends.neutron.api"},
    "ovs": {
        "daemon.control",
        "daemon.driver_options",
        "daemon.startup",
        "daemon.logs",
        "host.ovsdb.connection",
        "host.ovsdb.parser",
        "host.ovsdb.tls",
    },
    "prometheus_client": {"daemon.exposition"},
    "waitress": {"web.bounded_server"},
    "yaml": {"policy.rule_files"},
}
"""For each third-party package the modules that may import it."""


def modules() -> dict[str, Path]:
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for name, path in named.items()}


MODULES = modules()


def folder_of(module: str) -> str:
    """The folder of a module; a folder is its own."""
    is_folder = MODULES[module].name == "__init__.py"
    return module if is_folder else module.rpartition(".")[0]


@cache
def imports(module: str) -> frozenset[str]:
    """Full names of the modules that *module* imports, at the top or anywhere within."""
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


def test_every_folder_is_in_the_table() -> None:
    folders = {folder_of(module) for module in MODULES}
    assert folders == BELOW.keys(), "name the folder in BELOW"


def test_no_module_imports_from_above() -> None:
    wrong = []
    for module in sorted(MODULES):
        folder = folder_of(module)
        for name in sorted(imports(module)):
            if name == "ovn_docker" or name.startswith("ovn_docker."):
                imported = folder_of(name.removeprefix("ovn_docker").lstrip("."))
                if imported not in BELOW[folder] | {folder}:
                    wrong.append(f"{module} imports {name}: {folder or 'the package'} lies below {imported}")
    assert wrong == []


def test_each_folder_has_its_job_in_one_line() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            summary = ast.get_docstring(ast.parse(path.read_text()))
            assert summary, module
            assert "\n" not in summary, module


def test_third_party_packages_stay_where_they_belong() -> None:
    wrong = []
    for module in sorted(MODULES):
        for name in sorted(imports(module)):
            package = name.partition(".")[0]
            known = package == "ovn_docker" or package in sys.stdlib_module_names
            if not known and module not in THIRD_PARTY.get(package, set()):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_table_of_third_party_packages_is_not_stale() -> None:
    assert set().union(*THIRD_PARTY.values()) <= MODULES.keys()
    for package, allowed in THIRD_PARTY.items():
        users = {
            module for module in MODULES if package in {name.partition(".")[0] for name in imports(module)}
        }
        assert users == allowed, f"of those, some do not import {package}"


SAME_FILE_NAME: dict[str, str] = {}
"""File names that two folders have, and why."""


def test_file_names_are_unique() -> None:
    paths = [path for path in MODULES.values() if path.name != "__init__.py"]
    names = Counter(path.name for path in paths)
    assert {name for name, count in names.items() if count > 1} == SAME_FILE_NAME.keys()


def test_class_names_are_unique() -> None:
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


FLAT = {"cli", "host", "inspect"}
"""Folders with more than twelve modules; docs/architecture.md says why."""


def test_folders_have_at_most_twelve_modules() -> None:
    sizes = Counter(folder_of(module) for module in MODULES if MODULES[module].name != "__init__.py")
    assert {folder for folder, size in sizes.items() if size > 12} == FLAT


def test_folders_do_not_import_from_each_other() -> None:
    TopologicalSorter(BELOW).prepare()  # raises CycleError
