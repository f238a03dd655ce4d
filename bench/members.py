"""Measure 8: many drivers on a cluster of three northbound databases with TLS, whose leader dies."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.laboratory import python
from bench.many_hosts import processor_time, seconds_used, start_drivers, start_stand_ins
from bench.report import Line, p50, p99
from e2e.lab import Fabric, Host, wait_for
from e2e.lab.command import at_once
from e2e.lab.fabric import PKI
from e2e.lab.host import TLS

FILES = {"private-key": "key.pem", "certificate": "cert.pem", "ca-cert": "ca.pem"}


def members(hosts: int, each: int) -> tuple[list[Line], dict[str, Any]]:
    """Start drivers at once, make a network that appears on all of them, and kill the leader under load."""
    with Fabric() as fabric:
        servers = fabric.add_hosts("nb1", "nb2", "nb3")
        at_once(Host.start_switch, servers)
        fabric.start_members(servers)
        for server in servers:  # so that only the drivers and the northbound databases are measured
            server.northd.stop()
        (host,) = fabric.add_hosts("many")
        servers[0].run("ovn-docker", "pki", "host", host.name, f"--directory={PKI}")
        host.copy_tls(servers[0], f"{PKI}/{host.name}")
        remotes = ",".join(f"ssl:{server.address}:6641" for server in servers)
        start_stand_ins(host, hosts, remotes)
        return measure(servers, host, hosts, each)


def leader(servers: list[Host]) -> Host | None:
    """Return the server that leads the northbound databases, if there is one."""
    status = ("ovn-appctl", "-t", "/run/ovn/ovnnb_db.ctl", "cluster/status", "OVN_Northbound")
    return next((server for server in servers if "Role: leader" in server.run(*status)), None)


def measure(servers: list[Host], host: Host, hosts: int, each: int) -> tuple[list[Line], dict[str, Any]]:
    """Measure as members() says."""
    databases = [(server, server.northbound.pid or 0) for server in servers]
    used, start = seconds_used(databases), time.monotonic()
    start_drivers(host, hosts, *(f"--{option}={TLS}/{file}" for option, file in FILES.items()))
    started = time.monotonic() - start
    time.sleep(10)  # until every driver has finished its start
    joined = seconds_used(databases) - used
    at_rest = processor_time(databases, 20)
    seen = python(host, "bench.create_many", {"what": "shared_network", "hosts": hosts, "name": "foo"})

    plan = {"what": "endpoints", "hosts": hosts, "each": each, "name": "foo"}
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(python, host, "bench.create_many", plan)
        time.sleep(1)
        dead = wait_for(lambda: leader(servers), "a leader")
        dead.northbound.kill()
        wait_for(lambda: leader([server for server in servers if server is not dead]), "a new leader")
        run = load.result()
    survivors = [(server, pid) for server, pid in databases if server is not dead]
    after = processor_time(survivors, 20)
    plan = {"what": "shared_network", "hosts": hosts, "name": "bar", "subnet": "10.80.0.0/14"}
    again = python(host, "bench.create_many", plan)
    count, failed = len(run["each"]), len(run["failed"])
    where = f"{hosts} hosts on three databases"
    lines = [
        Line(f"8 {where}: all drivers started after", started, "s"),
        Line(f"8 {where}: the databases' processor time for a start", joined / hosts * 1000, "ms"),
        Line(
            f"8 {where}: the databases' processor time at rest",
            at_rest * 100,
            "%",
            goal="≤ 2 %",
            met=at_rest <= 0.02,
        ),
        Line(f"8 {where}: a new network is on all after", seen, "s", goal="≤ 1.5 s", met=seen <= 1.5),
        Line(
            f"8 {where}: of {count} endpoints made while the leader dies, failed",
            failed,
            "",
            goal="0",
            met=not failed,
        ),
        Line(f"8 {where}: the longest wait for one of them", max(run["each"]), "s"),
        Line(
            f"8 {where}: processor time at rest without the dead one",
            after * 100,
            "%",
            goal="≤ 2 %",
            met=after <= 0.02,
        ),
        Line(f"8 {where}: a new network is on all after, without the dead one", again, "s"),
    ]
    return lines, {
        "endpoint_p50_s": p50(run["each"]),
        "endpoint_p99_s": p99(run["each"]),
        "failed": run["failed"][:20],
    }
