"""A hostile host writes rows to the northbound database, upon which the other hosts would act."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.lab import Host, wait_for
from ovn_docker.model import row_uuid

Hosts = tuple[Host, Host, Host]

METRICS = "127.0.0.1:9100"
SUBNET = "10.66.0.0/24"
CONFIG = [{"Subnet": SUBNET}]


def definition(**changes: Any) -> dict[str, Any]:
    """Return the definition that a host would write for the network `pwn`, with some changes."""
    made = {
        "Name": "pwn",
        "Driver": "openvswitch",
        "EnableIPv6": False,
        "Internal": False,
        "Attachable": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": CONFIG},
        "Options": {"ovn.network": "pwn"},
        "Labels": {},
        "CheckDuplicate": True,
    }
    return made | changes


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "a bridge": (
        "Driver 'bridge'",
        definition(
            Driver="bridge",
            Options={"com.docker.network.bridge.name": "brpwn"},
            IPAM={"Config": [{"Subnet": "172.31.0.0/24", "Gateway": "172.31.0.99"}]},
        ),
    ),
    "macvlan": ("Driver 'macvlan'", definition(Driver="macvlan", Options={"parent": "eth0"})),
    "another name": ("Name 'other'", definition(Name="other")),
    "a switch of somebody's": (
        "ovn.switch",
        definition(Options={"ovn.network": "pwn", "ovn.switch": "theirs"}),
    ),
    "another plugin's addresses": ("IPAM driver 'weave'", definition(IPAM={"Driver": "weave", "Config": []})),
    "swarm's ingress": ("'Ingress'", definition(Ingress=True)),
}
"""Definitions to refuse, and a text that each refusal must contain."""


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """Three hosts, the third of which is the attacker; afterwards checks that the test left nothing."""
    for host in three_hosts:
        if METRICS not in host.run("ss", "-Hltn"):
            host.driver.stop()
            host.driver.start(f"--metrics={METRICS}", "--sweep-interval=6")
    yield three_hosts
    for host in three_hosts:
        if containers := host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", *containers)
    for host in three_hosts:
        for network in networks(host):
            if network not in STANDARD:
                host.run("docker", "network", "rm", network, check=False)
    wait_for(lambda: all(set(networks(host)) <= STANDARD for host in three_hosts), "the networks to go")
    for switch in (
        three_hosts[0].run("ovn-nbctl", "--bare", "--columns=_uuid", "list", "Logical_Switch").split()
    ):
        three_hosts[0].run("ovn-nbctl", "--if-exists", "ls-del", switch)  # it may be about to go


STANDARD = {"bridge", "host", "none", "docker_gwbridge"}


def networks(host: Host) -> list[str]:
    return host.docker("network", "ls", "--format={{.Name}}").split()


def attack(attacker: Host, *operations: dict[str, Any]) -> list[Any]:
    """Write to the northbound database as any host can."""
    database = attacker.run("ovs-vsctl", "--bare", "get", "Open_vSwitch", ".", "external_ids:ovn-nb").strip(
        '"'
    )
    said = attacker.run("ovsdb-client", "transact", database, json.dumps(["OVN_Northbound", *operations]))
    results = json.loads(said)
    assert not any("error" in result for result in results), said
    return list(results)


def write_network(attacker: Host, name: str, made: dict[str, Any], subnet: str = SUBNET) -> None:
    """Write the rows of a shared network that no user has created."""
    ids = {
        "ovn-docker:owner": "overlay",
        "ovn-docker:shared": "true",
        "ovn-docker:name": name,
        "ovn-docker:definition": json.dumps(made),
        "subnet": subnet,
        "gateway_ip": subnet.replace("0/24", "1"),
    }
    attack(
        attacker,
        {
            "op": "insert",
            "table": "Logical_Switch",
            "uuid": row_uuid("shared network", name),
            "row": {"name": name, "external_ids": ["map", list(map(list, ids.items()))]},
        },
    )


def delete_network(attacker: Host, name: str) -> None:
    attack(
        attacker,
        {
            "op": "delete",
            "table": "Logical_Switch",
            "where": [["_uuid", "==", ["uuid", row_uuid("shared network", name)]]],
        },
    )


def scrape(host: Host, metric: str) -> float:
    """Return the sum of a metric's samples."""
    said = host.run(
        *("python3", "-c"),
        f"import urllib.request as u; print(u.urlopen('http://{METRICS}/metrics').read().decode())",
    )
    return sum(float(line.split()[-1]) for line in said.splitlines() if line.startswith(f"{metric}{{"))


def warnings(host: Host) -> list[str]:
    log = host.path(host.driver.log).read_text()
    return [line for line in log.splitlines() if "WARN" in line and "refused" in line]


def await_refusal(host: Host, lines: int) -> None:
    """Wait until a host has logged more than *lines* refusals: then it has read the rows."""
    wait_for(lambda: warnings(host)[lines:], f"the refusal on {host.name}")


def make_and_see_everywhere(hosts: Hosts, name: str, subnet: str) -> None:
    """Create a network on the first host, and wait for it on all hosts."""
    hosts[0].docker(
        *("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch"),
        *(f"--subnet={subnet}", "--label=team=net", "-o", f"ovn.network={name}", name),
    )
    for host in hosts:
        wait_for(lambda host=host: name in networks(host), f"{name} on {host.name}")  # type: ignore[misc]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_definition_makes_no_network_on_any_host(hosts: Hosts, what: str) -> None:
    why, made = HOSTILE[what]
    attacker = hosts[2]
    refused = [scrape(host, "ovn_docker_refused_rows_total") for host in hosts]
    said = [len(warnings(host)) for host in hosts]
    links = [host.run("ip", "-o", "link").count("\n") for host in hosts[:2]]
    write_network(attacker, "pwn", made)
    make_and_see_everywhere(hosts, "good", "10.1.0.0/16")
    make_and_see_everywhere(hosts, "better", "10.2.0.0/16")
    for host, before, lines in zip(hosts, refused, said, strict=True):
        await_refusal(host, lines)
        assert set(networks(host)) - STANDARD == {"good", "better"}, host.name
        (line,) = warnings(host)[lines:]
        assert "network pwn" in line
        assert why in line
        wait_for(
            lambda host=host, before=before: (  # type: ignore[misc]
                scrape(host, "ovn_docker_refused_rows_total") > before
            ),
            "the refusal to be counted",
        )
        assert scrape(host, "ovn_docker_refused_rows_total") == before + 1
    assert [host.run("ip", "-o", "link").count("\n") for host in hosts[:2]] == links
    for host in hosts:
        results = json.loads(host.run("ovn-docker", "doctor", "--json", check=False, timeout=60))
        (finding,) = next(one["findings"] for one in results if one["name"] == "cluster-networks")
        assert "pwn" in finding["evidence"]
        assert why in finding["evidence"]
    delete_network(attacker, "pwn")


def container(host: Host, name: str) -> str:
    host.docker("run", "-d", "--net=good", f"--name={name}", "--stop-signal=KILL", "busybox", "sleep", "999")
    shown = "--format={{with .NetworkSettings.Networks.good}}{{.IPAddress}} {{.EndpointID}}{{end}}"
    return host.docker("inspect", shown, name)


def rows_of(host: Host, endpoint: str) -> set[str]:
    """Return the UUIDs of the rows that an endpoint needs."""
    found: set[str] = set()
    for table in ("Logical_Switch_Port", "DHCP_Options"):
        where = f"external_ids:ovn-docker\\:endpoint={endpoint}"
        found |= set(host.run("ovn-nbctl", "--bare", "--columns=_uuid", "find", table, where).split())
    return found


def test_port_that_a_row_assigns_to_another_host_stays_plugged(hosts: Hosts) -> None:
    """host3 makes host2's port an old one of host1; host1 searches for leftovers."""
    host1, host2, attacker = hosts
    make_and_see_everywhere(hosts, "good", "10.1.0.0/16")
    container(host1, "near")
    address, endpoint = container(host2, "far").split()
    host1.ping("near", address)
    # The port, and claims of its address, its MAC, its name and its short ID, which is its host name too.
    wait_for(lambda: len(rows_of(host1, endpoint)) == 5, "all rows of the endpoint")
    kept = rows_of(host1, endpoint)
    forged = {
        "ovn-docker:host": host1.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:system-id"),
        "ovn-docker:encap": host1.tunnel_address,
        "ovn-docker:created": "1",
    }
    pairs = [[key, value.strip('"')] for key, value in forged.items()]
    for table in ("Logical_Switch_Port", "DHCP_Options"):
        attack(
            attacker,
            {
                "op": "mutate",
                "table": table,
                "where": [["external_ids", "includes", ["map", [["ovn-docker:endpoint", endpoint]]]]],
                "mutations": [
                    ["external_ids", "delete", ["set", [*forged, "ovn-docker:uptime"]]],
                    ["external_ids", "insert", ["map", pairs]],
                ],
            },
        )
    host1.run("ovn-docker", "gc", "--repair", check=False, timeout=60)
    host1.driver.stop()  # the driver reads the database at its start
    host1.driver.start(f"--metrics={METRICS}", "--sweep-interval=6")
    host1.run("ip", "link", "add", "odhstray", "type", "veth", "peer", "odcstray")
    gone = ("sh", "-c", "! ip link show odhstray 2>/dev/null")
    wait_for(lambda: host1.run(*gone, check=False) == "", "the sweep")
    assert rows_of(host1, endpoint) == kept
    host1.ping("near", address)


def test_network_with_the_address_of_a_database_is_refused(hosts: Hosts) -> None:
    """The subnet is that of the management network, to which the attacker's host belongs, too."""
    subnet = "172.31.0.0/24"
    said = [len(warnings(host)) for host in hosts]
    ipam = {"Driver": "default", "Options": {}, "Config": [{"Subnet": subnet}]}
    write_network(hosts[2], "pwn", definition(IPAM=ipam), subnet)
    make_and_see_everywhere(hosts, "good", "10.1.0.0/16")
    make_and_see_everywhere(hosts, "better", "10.2.0.0/16")
    for host, lines in zip(hosts, said, strict=True):
        await_refusal(host, lines)
        assert set(networks(host)) - STANDARD == {"good", "better"}, host.name
        assert "a database's or this host's own address" in warnings(host)[-1]
    delete_network(hosts[2], "pwn")
