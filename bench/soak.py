"""The soak: many endpoints' lives on two hosts, after which everything is as it was.

``python -m bench.soak``: memory, file descriptors, threads, rows, links, sizes of logs and databases, after
each thousand lives. The exit status is 1 if something has grown.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.floor import Ovsdb
from bench.laboratory import OURS, PYTHONPATH, REPOSITORY, left_behind
from bench.report import Line, p50, save, table
from bench.soak_docker import API
from e2e.lab import Fabric, Host, LabError, wait_for
from e2e.lab.command import ENVIRONMENT, at_once
from e2e.lab.services import Service
from ovn_docker.backends.ovn.rows import STATE
from ovn_docker.host.ovsdb import has, select

RESULTS = REPOSITORY / "bench" / "results" / "soak.json"
NETWORK, SUBNET = "soak", "10.80.0.0/15"
PASSING, PASSING_SUBNET = "passing", "10.90.0.0/24"
"""A shared network that is made and removed between the samples."""

EVERY = 1000
"""Lives between two samples, on both hosts together; a tenth of a short run."""

COMPACT = 5
"""Every fifth part of the lives has the northbound database compacted meanwhile."""

GROWTH = 1.02
"""Memory at the end, as a part of that after the first tenth of the lives."""

RELEASED = "released addresses"
IS_RELEASED = has("external_ids", {STATE: "released"})
"""Rows that stay for a minute, and then until a later release."""

FEW = 40

METRICS = "127.0.0.1:9476"
HELD = ("descriptors", "threads")
MIB = 1024.0
PATIENCE = 240
"""Seconds until the last released addresses are deleted, and ovn-controller has given memory back."""

DATABASES = {
    "OVN_Northbound": ("/run/ovn/ovnnb_db.sock", "/run/ovn/ovnnb_db.ctl", "/var/lib/ovn/ovnnb_db.db"),
    "OVN_Southbound": ("/run/ovn/ovnsb_db.sock", "/run/ovn/ovnsb_db.ctl", "/var/lib/ovn/ovnsb_db.db"),
    "Open_vSwitch": ("/run/openvswitch/db.sock", "", "/etc/openvswitch/conf.db"),
}
"""Socket, control socket and file of each database on a host."""

SCHEMAS = {
    "OVN_Northbound": "/usr/share/ovn/ovn-nb.ovsschema",
    "OVN_Southbound": "/usr/share/ovn/ovn-sb.ovsschema",
    "Open_vSwitch": "/usr/share/openvswitch/vswitch.ovsschema",
}

Sample = dict[str, Any]


class Docker:
    """`bench.soak_docker` on a host."""

    def __init__(self, host: Host, central: Host, in_flight: int) -> None:
        self._process = subprocess.Popen(
            [*host.enter, sys.executable, "-m", "bench.soak_docker"],
            env=ENVIRONMENT | {"PYTHONPATH": PYTHONPATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        northbound = f"tcp:{central.address}:6641"
        self._send({"host": host.name, "driver": OURS, "northbound": northbound, "in_flight": in_flight})

    def ask(self, do: str, **command: Any) -> Any:
        """Return the answer to a command, a method of `bench.soak_docker.Lives`."""
        return self._send({"do": do, **command})

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _send(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            raise LabError("bench.soak_docker has ended; see its traceback above")
        return json.loads(answer)


class Soak:
    """Two hosts with the driver, on whose shared network endpoints live."""

    def __init__(self, fabric: Fabric, in_flight: int) -> None:
        self.hosts = fabric.add_hosts("host1", "host2")
        self.central = self.hosts[0]
        at_once(Host.start_switch, self.hosts)
        self.central.start_central()
        at_once(lambda host: host.join(self.central.address), self.hosts)
        if fabric.userspace:
            at_once(lambda host: host.meet(self.hosts), self.hosts)
        self.dockers = [Docker(host, self.central, in_flight) for host in self.hosts]
        for host in self.hosts:
            host.driver.start("--scope=local", f"--docker={API}", f"--metrics={METRICS}")
        self._create(NETWORK, SUBNET)
        self._peers = [docker.ask("resident", name=NETWORK) for docker in self.dockers][::-1]
        self._pids = self._processes()
        self.failed: list[str] = []

    def live(self, number: int, *, compact: bool = False) -> float:
        """Live a number of lives on both hosts at once; return the seconds that they took."""
        start = time.monotonic()
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            lives = [
                pool.submit(docker.ask, "lives", name=NETWORK, number=number // len(self.hosts), peer=peer)
                for docker, peer in zip(self.dockers, self._peers, strict=True)
            ]
            if compact:
                self.compact("OVN_Northbound", self.central)
            for one in lives:
                failed = one.result()["failed"]
                print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr, flush=True)
                self.failed += failed
        return time.monotonic() - start

    def pass_by(self) -> None:
        """Create a shared network, which appears on the other host, and remove it from both."""
        self._create(PASSING, PASSING_SUBNET)
        self.dockers[0].ask("remove", name=PASSING)
        wait_for(lambda: not self.dockers[1].ask("has", name=PASSING), f"the removal of {PASSING}")

    def rest(self, before: dict[str, int]) -> None:
        """Wait until rows and links are as *before*, at most for some minutes; compact the databases."""

        def rested() -> bool:
            now = self.counts()
            if now[RELEASED] > FEW:  # a driver deletes such rows with its later ones
                time.sleep(5)
                self.live(len(self.hosts))
            return now[RELEASED] <= FEW and not changed(before, now)

        try:
            wait_for(rested, "rows and links as before", PATIENCE)
        except LabError as error:
            print(error, changed(before, self.counts()), sep=": ", file=sys.stderr)
        for database, host in self._databases():
            self.compact(database, host)

    def compact(self, database: str, host: Host) -> None:
        """Compact a database."""
        _, control, _ = DATABASES[database]
        control = control or f"/run/openvswitch/ovsdb-server.{host.ovsdb.pid}.ctl"
        host.run("ovs-appctl", f"--target={control}", "ovsdb-server/compact", database, timeout=60)

    def sample(self, lives: int, seconds: float = 0) -> Sample:
        """Return everything that may grow."""
        if (now := self._processes()) != self._pids:
            raise LabError(f"a process has ended: {self._pids} have become {now}")
        for host in self.hosts:
            host.run("busybox", "wget", "-q", "-O", "/dev/null", f"http://{METRICS}/metrics")
        used = {
            f"{host.name} {name}": _used(host, pid)
            for host, name, pid in ((self._host(of), name, pid) for (of, name), pid in now.items())
        }
        return {"lives": lives, "seconds": seconds, "time": time.time(), "used": used,
                "failed": len(self.failed),
            "counts": self.counts(), "files": self._files()}  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Count the rows of each table, the links, and what is left of endpoints."""
        counts = {}
        for database, host in self._databases():
            tables = json.loads(host.path(SCHEMAS[database]).read_text())["tables"]
            server = Ovsdb(f"unix:{host.path(DATABASES[database][0])}", database)
            for name, found in zip(
                tables, server.transact(*(select(name, columns=["_uuid"]) for name in tables)), strict=True
            ):
                counts[f"{host.name} {database} {name}"] = len(found["rows"])
            if database == "OVN_Northbound":
                (released,) = server.transact(select("DHCP_Options", IS_RELEASED, columns=["_uuid"]))
                counts[RELEASED] = len(released["rows"])
                counts[f"{host.name} {database} DHCP_Options"] -= counts[RELEASED]
            server.close()
        for host in self.hosts:
            counts[f"{host.name} links"] = len(host.run("ip", "-oneline", "link").splitlines())
            counts[f"{host.name} endpoints"] = left_behind(host)
        return counts

    def close(self) -> None:
        """End Docker's part."""
        for docker in self.dockers:
            docker.close()

    def _create(self, name: str, subnet: str) -> None:
        self.dockers[0].ask("create", name=name, subnet=subnet)
        wait_for(lambda: self.dockers[1].ask("has", name=name), f"{name} on the other host")

    def _databases(self) -> Iterator[tuple[str, Host]]:
        yield "OVN_Northbound", self.central
        yield "OVN_Southbound", self.central
        for host in self.hosts:
            yield "Open_vSwitch", host

    def _processes(self) -> dict[tuple[str, str], int]:
        """Return the process IDs by host and name; 0 for one that has ended."""
        services: dict[tuple[str, str], Service] = {}
        for host in self.hosts:
            services[host.name, "driver"] = host.driver
            services[host.name, "ovsdb-server"] = host.ovsdb
            services[host.name, "ovs-vswitchd"] = host.vswitchd
            services[host.name, "ovn-controller"] = host.controller
        services[self.central.name, "NB ovsdb-server"] = self.central.northbound
        services[self.central.name, "SB ovsdb-server"] = self.central.southbound
        services[self.central.name, "ovn-northd"] = self.central.northd
        return {key: service.pid or 0 for key, service in services.items()}

    def _host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def _files(self) -> dict[str, int]:
        """Return the sizes of logs and database files in bytes."""
        logs = {f"{host.name} {log}": host.path(log) for host in self.hosts for log in host.logs()}
        files = {
            f"{host.name} {DATABASES[name][2]}": host.path(DATABASES[name][2])
            for name, host in self._databases()
        }
        return {name: path.stat().st_size for name, path in (logs | files).items()}


def changed(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return a line for each number that has changed."""
    return [
        f"{name}: {before[name]}, now {number}"
        for name, number in now.items()
        if name != RELEASED and number != before[name]
    ]


def _used(host: Host, pid: int) -> dict[str, float]:
    """Return memory in MiB, file descriptors and threads of a process (proc(5), smaps_rollup)."""
    process = host.path(f"/proc/{pid}")
    rollup = (process / "smaps_rollup").read_text()
    sizes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", rollup, re.MULTILINE)}
    return {
        "private": (sizes["Private_Clean"] + sizes["Private_Dirty"] + sizes["Swap"]) / MIB,
        "proportional": sizes["Pss"] / MIB,
        "resident": sizes["Rss"] / MIB,
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
    }


def soak(lives: int, in_flight: int, minutes: float) -> Iterator[list[Sample]]:
    """Yield the samples so far after each part of the lives; the last one when all is at rest again."""
    every, end = min(EVERY, max(2, lives // 10)), time.monotonic() + minutes * 60
    with Fabric() as fabric:
        hosts = Soak(fabric, in_flight)
        before = hosts.counts()
        hosts.live(50 * in_flight)  # so that each thread has its connections
        hosts.pass_by()
        hosts.rest(before)
        samples = [hosts.sample(0)]
        while samples[-1]["lives"] < lives and time.monotonic() < end:
            part = min(every, lives - samples[-1]["lives"])
            seconds = hosts.live(part, compact=len(samples) % COMPACT == 0)
            hosts.pass_by()
            samples.append(hosts.sample(samples[-1]["lives"] + part, seconds))
            yield samples
        hosts.rest(before)
        samples.append(hosts.sample(samples[-1]["lives"]))
        hosts.close()
        yield samples


def verdict(samples: list[Sample]) -> list[Line]:
    """Compare the end with the start, and memory with that after the first tenth of the lives."""
    start, *during, end = samples
    lives = end["lives"]
    tenth = [one for one in during if lives / 10 < one["lives"] <= lives / 5] or during[:1]
    last = [one for one in during if one["lives"] > lives * 0.9] or during[-1:]
    lines = [Line("calls failed", end["failed"], "", goal="0", met=not end["failed"])]
    for process in end["used"]:
        before, after = (p50([one["used"][process]["private"] for one in part]) for part in (tenth, last))
        lines.append(_grown(f"{process}, private memory", after, "MiB", before, "after a tenth"))
    first = [start, *(one for one in during if one["lives"] <= lives / 5)]
    for held in HELD:
        most = {name: max(one["used"][name][held] for one in first) for name in end["used"]}
        now = {name: end["used"][name][held] for name in end["used"]}
        met = all(now[name] <= most[name] for name in now)
        goal = "not more, each"
        what = f"{held} of all processes"
        lines.append(
            Line(what, sum(now.values()), "", sum(most.values()), "most in the first fifth", goal, met)
        )
    for kind in ("OVN_Northbound", "OVN_Southbound", "Open_vSwitch", "links", "endpoints"):
        names = [name for name in end["counts"] if kind in name]
        what = {"links": "links", "endpoints": "ports and links of endpoints"}.get(kind, f"rows of {kind}")
        lines.append(_same(what, [(start["counts"][name], end["counts"][name]) for name in names]))
    for file in end["files"]:
        if file.endswith(".db"):
            before, after = (one["files"][file] / 1024 for one in (start, end))
            lines.append(_grown(f"{file}, compacted", after, "KiB", before, "at the start"))
        else:
            early, late = (_per_life(file, *pair) for pair in ((start, tenth[0]), (tenth[0], during[-1])))
            lines.append(Line(f"{file}, a life", late, "B", early, "in the first tenth"))
    return lines


def _grown(what: str, after: float, unit: str, before: float, when: str) -> Line:
    return Line(what, after, unit, before, when, f"≤ {GROWTH} of that", after <= GROWTH * before)


def _same(what: str, pairs: Sequence[tuple[int, int]]) -> Line:
    """Return a line about numbers that have to be at the end what they were at the start."""
    before, after = (sum(numbers) for numbers in zip(*pairs, strict=True))
    met = all(now == then for then, now in pairs)
    return Line(what, after, "", before, "at the start", "the same, each", met)


def _per_life(file: str, start: Sample, end: Sample) -> float:
    written: int = end["files"][file] - start["files"].get(file, 0)
    return written / max(1, end["lives"] - start["lives"])


def differences(samples: list[Sample]) -> list[str]:
    """Return a line for each number that is not what it was at the start."""
    start, end = (
        one["counts"]
        | {f"{process} {what}": used[what] for process, used in one["used"].items() for what in HELD}
        for one in (samples[0], samples[-1])
    )
    return changed(start, end)


def _progress(samples: list[Sample]) -> str:
    """Return a line about the last part of the lives."""
    one, before = samples[-1], samples[-2]
    rate = (one["lives"] - before["lives"]) / one["seconds"] if one["seconds"] else 0
    memory = ", ".join(f"{name} {used['private']:.1f}" for name, used in one["used"].items())
    return f"{one['lives']} lives, {rate:.1f}/s; MiB: {memory}"


def main() -> None:
    """Parse the command line, run the soak, print the table; exit with 1 if something has grown."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lives", type=int, default=100_000, help="on both hosts together")
    parser.add_argument("--in-flight", type=int, default=4, help="lives at the same time on each host")
    parser.add_argument(
        "--minutes", type=float, default=24 * 60, help="begin no further part after that time"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write them, after each part")
    arguments = parser.parse_args()
    samples: list[Sample] = []
    for samples in soak(arguments.lives, arguments.in_flight, arguments.minutes):
        print(_progress(samples), file=sys.stderr, flush=True)
        save(arguments.results, "soak", [], {"samples": samples})  # so that a run that is stopped has results
    lines = verdict(samples)
    save(arguments.results, "soak", lines, {"samples": samples, "differences": differences(samples)})
    print(table(lines))
    print("\n".join(differences(samples)))
    sys.exit(any(line.met is False for line in lines))


if __name__ == "__main__":
    main()
