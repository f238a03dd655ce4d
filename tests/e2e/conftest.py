"""Labs for the tests, and the logs of their hosts in the report of a failure."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.lab import Fabric, Host, missing
from e2e.lab.cloud import RELEASES, VM, Cloud, missing_for_cloud
from e2e.lab.images import SUITES

ATTACKS = Path(__file__).parent / "attacks"

LONG_FILES = (
    *(
        "test_swarm.py",
        "test_policy.py",
        "test_driver_killed.py",
        "test_guide.py",
        "test_cluster.py",
        "test_beside_the_bridge.py",
    ),
    *("test_trace.py", "test_demo.py", "test_gc.py", "test_host_fails.py", "test_central_fails.py"),
    *("test_repair.py", "test_doctor.py", "test_compose_and_swarm.py", "test_operations.py"),
    *("test_docker_killed.py", "test_multicast.py", "test_key_value_store.py", "test_addresses.py"),
    "test_bench.py",
)
"""Files that take half a minute or more, longest first, so that two workers end at about the same time."""

FABRICS = pytest.StashKey[dict[str, Fabric]]()  # by the fixture that made it

KEPT = pytest.StashKey[list[tuple[str, Fabric]]]()  # by the name of the fixture or test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep", action="store_true", help="leave the labs running, and say how to enter them")
    parser.addoption("--policies", type=int, default=10, help="number of random policies in test_policy.py")
    parser.addoption("--neutron", choices=RELEASES, default=RELEASES[-1], help="the release of Neutron")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: runs on several hosts of its own, with real Docker and OVN")
    config.addinivalue_line("markers", "engines: on newer versions of Docker; only with -m engines")
    config.addinivalue_line("markers", "underlay: on a real OpenStack cloud; only with -m underlay")
    config.addinivalue_line("markers", "attacks: attacks from containers and hosts; only with -m attacks")
    config.addinivalue_line("markers", "faults: kills, restarts, partitions at length; only with -m faults")
    config.stash[FABRICS] = {}
    config.stash[KEPT] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = missing()
    apart = {
        "engines": "newer versions of Docker",
        "underlay": "a cloud of OpenStack",
        "faults": "kills, restarts and partitions, at length",
        "attacks": "attacks from inside containers and from a host with stolen credentials",
    }
    items.sort(key=_order)
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.e2e)
        if ATTACKS in item.path.parents:
            item.add_marker(pytest.mark.attacks)
        if reasons:
            item.add_marker(pytest.mark.skip(reason=f"no lab here: {', '.join(reasons)}"))
        elif unasked := [m for m in apart if m in item.keywords and m not in config.option.markexpr]:
            item.add_marker(pytest.mark.skip(reason=f"{apart[unasked[0]]}: only with -m {unasked[0]}"))
        elif "underlay" in item.keywords and (lacks := missing_for_cloud()):
            item.add_marker(pytest.mark.skip(reason=f"no cloud here: {', '.join(lacks)}"))


def _order(item: pytest.Item) -> int:
    """Return the place of a test's file in the order of long files; other files come after them."""
    of_e2e = Path(__file__).parent in item.path.parents
    return LONG_FILES.index(item.path.name) if of_e2e and item.path.name in LONG_FILES else len(LONG_FILES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        fabrics = [fabric for name, fabric in item.config.stash[FABRICS].items() if name in item.fixturenames]
        for host in (host for fabric in fabrics for host in fabric.hosts):
            report.sections += [(f"{host.name}: {log}", host.tail(log)) for log in host.logs()]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, fabric in config.stash[KEPT]:
        terminalreporter.section(f"kept: {name}")
        terminalreporter.write_line(fabric.keep())


def _fabric(request: pytest.FixtureRequest) -> Fabric:
    """A fabric that exists as long as the requesting fixture, also if that fixture fails."""
    name = request.fixturename
    assert name
    fabric = request.config.stash[FABRICS][name] = Fabric()

    def end() -> None:
        del request.config.stash[FABRICS][name]
        if request.config.option.keep:
            request.config.stash[KEPT].append((request.node.name or name, fabric))
        else:
            fabric.close()

    request.addfinalizer(end)
    return fabric


@pytest.fixture(
    scope="module",
    params=["20.10", *(pytest.param(version, marks=pytest.mark.engines) for version in SUITES)],
)
def engine(request: pytest.FixtureRequest) -> str:
    """A version of Docker: that of the machine, and with -m engines the newer ones."""
    return str(request.param)


@pytest.fixture(scope="module")
def engine_fabric(request: pytest.FixtureRequest, engine: str) -> Fabric:
    """A fabric without hosts, for the tests of one module with one version of Docker."""
    return _fabric(request)


@pytest.fixture(scope="module")
def three_hosts(engine_fabric: Fabric, engine: str) -> tuple[Host, Host, Host]:
    """Three hosts with the driver; the first is OVN's central machine, too."""
    host1, host2, host3 = hosts = engine_fabric.cluster("host1", "host2", "host3", engine=engine)
    for host in hosts:
        host.driver.start()
    return host1, host2, host3


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> Fabric:
    """A fabric without hosts, for one test, which may damage it."""
    return _fabric(request)


@pytest.fixture(scope="module")
def module_fabric(request: pytest.FixtureRequest) -> Fabric:
    """A fabric without hosts, for the tests of one module."""
    return _fabric(request)


@pytest.fixture(scope="session")
def two_hosts(request: pytest.FixtureRequest) -> tuple[Host, Host]:
    """Two hosts on which everything except the driver runs, set up with the guide's commands.

    The first is also OVN's central machine. All tests share the hosts and leave them unchanged.
    """
    host1, host2 = _fabric(request).cluster("host1", "host2")
    return host1, host2


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """An OpenStack cloud with two hypervisors. All tests share it and leave it unchanged."""
    return Cloud(_fabric(request), request.config.option.neutron)


@pytest.fixture(scope="session")
def vms(cloud: Cloud) -> tuple[VM, VM, VM]:
    """Three VMs of the tenant demo, two on hv1 and one on hv2, on which everything except the driver runs."""
    return cloud.boot_three()


@pytest.fixture(scope="module")
def shared_cluster(request: pytest.FixtureRequest) -> Cluster:
    """A cluster for the tests of one module."""
    return Cluster(*_fabric(request).cluster("host1", "host2"))


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Two hosts with the driver and a network; afterwards checks that the test left nothing."""
    yield shared_cluster
    shared_cluster.remove_containers()
    shared_cluster.settles()
