"""Checks of this host: Docker, the driver, Open vSwitch and its settings, ovn-controller. Pure."""

import math
import re
from collections.abc import Iterable
from ipaddress import ip_address
from uuid import NAMESPACE_DNS, uuid5

from ovn_docker.host.barrier import TABLE, UP
from ovn_docker.model import ENCAPS, NAMESERVERS
from ovn_docker.view.health import Facts, Finding, Look, NotChecked, Severity
from ovn_docker.view.probes import Reached
from ovn_docker.view.snapshot import ip_version

START = ("ovn-docker", "host", "start")
RESTART = (("ovn-docker", "host", "stop"), START)
SETUP = "`ovn-docker host setup` sets all of the guide's settings"

OLDEST, NEWEST = (20, 10), (29, 99)
"""Versions of Docker that ovn-docker is tested with."""

EXPIRY = 30
"""Days before the end of a certificate at which it is reported."""

LATELY = 3600.0
"""Seconds for which a failure of a thread is reported after it."""

_REMOTE = re.compile(r"(?:tcp|ssl):(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):\d{1,5}|unix:/\S+")
_DNS = '"dns" in /etc/docker/daemon.json'


# Docker and the driver


def docker(facts: Facts) -> Iterable[Finding]:
    """Docker answers."""
    if reason := facts.snapshot.missing.get("docker"):
        yield Finding(reason, "start Docker", (("systemctl", "start", "docker"),))


def docker_version(facts: Facts) -> Iterable[Finding]:
    """Docker's version is one that ovn-docker is tested with."""
    engine = facts.snapshot.engine
    found = re.match(r"(\d+)\.(\d+)", engine.version if engine else "")
    if engine and found and not OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        yield Finding(
            f"Docker {engine.version} is none of the versions that ovn-docker is tested with (20.10 to 29)",
            "use one of these, or see whether a newer ovn-docker knows it",
            severity=Severity.WARN,
        )


def docker_apparmor(facts: Facts) -> Iterable[Finding]:
    """Docker can load its AppArmor profile, where the kernel has AppArmor."""
    if not facts.probes.machine.apparmor:
        yield Finding(
            "the kernel has AppArmor, and apparmor_parser is not installed: Docker starts no container, or "
            "starts it without its profile",
            "install the parser, which docker.io only recommends",
            (("apt-get", "install", "apparmor"),),
            severity=Severity.WARN,
        )


def docker_dns(facts: Facts) -> Iterable[Finding]:
    """Docker's resolver asks servers that containers reach."""
    servers = facts.probes.machine.dns
    if servers and set(servers) <= set(map(str, NAMESERVERS)):
        yield Finding(
            f"{_DNS} has none but OVN's servers: no name outside the cluster is found, and for what OVN does "
            "not know, such as that a name has no IPv6 address, a container waits for seconds",
            "name a server that containers reach as the third, and restart Docker",
            severity=Severity.WARN,
        )
    for server in servers:
        try:
            loopback = ip_address(server).is_loopback
        except ValueError:
            what = f"{_DNS} has {server!r}, which is no address: dockerd will not start"
            yield Finding(what, "correct it", severity=Severity.WARN)
            continue
        if loopback:
            yield Finding(
                f"{_DNS} has {server}: in a container that is the container itself, so no name outside the "
                "cluster is found",
                "name a server that containers reach, and restart Docker",
            )


def driver(facts: Facts) -> Iterable[Finding]:
    """The driver answers on its socket."""
    if reason := facts.snapshot.missing.get("driver"):
        yield Finding(reason, "start the driver", (START,), safe=True)


def driver_threads(facts: Facts) -> Iterable[Finding]:
    """Every thread of the driver works, and none has failed within the last hour."""
    driver = facts.snapshot.driver
    if driver is None or driver.threads is None:
        raise NotChecked("the driver does not say on its control socket which threads it has")
    for state in driver.threads:
        if state.since is None or (not state.waits and state.since > LATELY):
            continue
        now = "does not work now" if state.waits else "works again"
        yield Finding(
            f"the driver's thread {state.name}, which {state.purpose}, {now}: it failed {state.failures} "
            f"{'time' if state.failures == 1 else 'times'}, last {state.since:.0f} s ago ({state.error})",
            "report it with the traceback in the driver's log; if it goes on, restart the driver",
            (("ovs-appctl", "-t", driver.program, "exit"), START) if state.waits else (),
            severity=Severity.FAIL if state.waits else Severity.WARN,
        )


def barrier(facts: Facts) -> Iterable[Finding]:
    """Containers do not reach OVN's databases or the metrics."""
    state = facts.probes.barrier
    if state and state != "off" and not state.startswith(UP):
        yield Finding(
            f"there is no barrier between containers and the cluster's services: {state}",
            "install what is missing; the driver tries again every few seconds",
            (("apt-get", "install", "--yes", "nftables"),) if "not installed" in state else (),
        )
    for one in facts.probes.reached:
        yield Finding(
            f"container {one.container} on network {one.network} reaches {one.where}",
            _cure(one, state),
            subject=f"{one.network} {one.where}",
            severity=Severity.WARN if one.neighbour or state == "off" else Severity.FAIL,
        )


def _cure(one: Reached, state: str) -> str:
    if one.neighbour:
        return "a network of this kind makes containers neighbours of the hosts: give the databases TLS"
    if state == "off":
        return "remove --barrier off from the driver's options, or filter it yourself"
    return f"compare `nft list table inet {TABLE}` with the network's bridge"


def driver_at_boot(facts: Facts) -> Iterable[Finding]:
    """The driver starts at boot (with systemd)."""
    units = facts.probes.machine.units
    disabled = [
        unit for unit, state in units.items() if unit.startswith("ovn-docker") and state == "disabled"
    ]
    if disabled:
        yield Finding(
            f"{' and '.join(disabled)} will not start at boot: containers that restart then find no driver",
            "enable them",
            (("systemctl", "enable", *disabled),),
            safe=True,
            severity=Severity.WARN,
        )


def old_driver(facts: Facts) -> Iterable[Finding]:
    """OVN's own Docker drivers, which have our driver's name, are not there."""
    for path in facts.probes.machine.old_drivers:
        spec = "/plugins/" in path
        what = "turns Docker to another driver of our name" if spec else "is OVN's own driver, not ours"
        cure = ("rm", path) if spec else ("apt-get", "remove", "--yes", "ovn-docker")
        yield Finding(f"{path} {what}", "remove it", (cure,), severity=Severity.WARN)


# Open vSwitch


def vswitch(facts: Facts) -> Iterable[Finding]:
    """The local Open_vSwitch database answers."""
    if reason := facts.snapshot.missing.get("vswitch"):
        yield Finding(reason, "start Open vSwitch", (START,))


def vswitchd(facts: Facts) -> Iterable[Finding]:
    """ovs-vswitchd runs."""
    if facts.snapshot.process("ovs-vswitchd").pid is None:
        yield Finding(
            "ovs-vswitchd does not run: no packet is switched here", "start it", (START,), safe=True
        )


def system_id(facts: Facts) -> Iterable[Finding]:
    """This host has a system-id, its name in OVN."""
    if facts.snapshot.system_id:
        return
    kept = facts.probes.machine.system_id
    name = kept or str(uuid5(NAMESPACE_DNS, f"{facts.snapshot.host}.ovn-docker"))
    where = "as in /etc/openvswitch/system-id.conf" if kept else "any word that no other host has"
    yield Finding(
        "the Open_vSwitch database does not have system-id, by which OVN knows this host",
        f"give it one: {where}",
        (set_external_id("system-id", name),),
        safe=bool(kept),
    )


def remote(setting: str, port: int, other: str, other_port: int) -> Look:
    """A check that *setting* names databases; *other* is the one that most likely names the same hosts."""

    def look(facts: Facts) -> Iterable[Finding]:
        ids = facts.snapshot.vswitch.ids if facts.snapshot.vswitch else {}
        value = ids.get(setting, "")
        wrong = [part.strip() for part in value.split(",") if not _REMOTE.fullmatch(part.strip())]
        if value and not wrong:
            return
        example = ids.get(other, "")
        known = all(_REMOTE.fullmatch(part.strip()) for part in example.split(","))
        evidence = (
            f"{setting} is {value!r}, in which {wrong[0]!r} is no address of a database"
            if value
            else f"the Open_vSwitch database does not have {setting}"
        )
        if known:
            like = ",".join(part.strip().replace(f":{other_port}", f":{port}") for part in example.split(","))
            yield Finding(evidence, f"set it, most likely like {other}", (set_external_id(setting, like),))
        else:
            yield Finding(evidence, f"set it to tcp:CENTRAL_IP:{port}; {SETUP}")

    return look


def encap_ip(facts: Facts) -> Iterable[Finding]:
    """The address of the tunnels is one of this host's."""
    ids = facts.snapshot.vswitch.ids if facts.snapshot.vswitch else {}
    value = ids.get("ovn-encap-ip", "")
    own = [address for link in facts.snapshot.links for address in link.addresses]
    own = [address for address in own if not _local(address)]
    if not value:
        evidence = "the Open_vSwitch database does not have ovn-encap-ip, the address of this host's tunnels"
    else:
        wrong = [part.strip() for part in value.split(",") if part.strip() not in own]
        if not wrong or any(part.strip() in {"127.0.0.1", "::1"} for part in value.split(",")):
            return
        evidence = f"ovn-encap-ip is {value}, but this host has {', '.join(own) or 'no address'}"
    likely = _likely(facts, own)
    commands = (set_external_id("ovn-encap-ip", likely),) if likely else ()
    yield Finding(evidence, "set it to the address of this host that the others reach", commands)


def encap_type(facts: Facts) -> Iterable[Finding]:
    """The kind of tunnel is one that works."""
    switch = facts.snapshot.vswitch
    value = switch.ids.get("ovn-encap-type", "") if switch else ""
    types = [part.strip() for part in value.split(",")]
    command = (set_external_id("ovn-encap-type", _usual_encap(facts)),)
    if not value:
        evidence = "the Open_vSwitch database does not have ovn-encap-type: ovn-controller makes no tunnels"
        yield Finding(evidence, "set it to what the other hosts have", command)
    elif wrong := [kind for kind in types if kind not in ENCAPS]:
        evidence = f"ovn-encap-type is {value!r}; OVN knows {', '.join(ENCAPS)}, not {wrong[0]!r}"
        yield Finding(evidence, "set it to what the other hosts have", command)
    elif "stt" in types:
        yield Finding(
            "ovn-encap-type is stt, which neither Linux nor Open vSwitch in user space can send",
            "set it to what the other hosts have",
            command,
        )


def datapath(facts: Facts) -> Iterable[Finding]:
    """The integration bridge is on a datapath that this kernel has."""
    switch = facts.snapshot.vswitch
    if switch is None:
        return
    wanted = switch.ids.get("ovn-bridge-datapath-type", "") or "system"
    if wanted not in ("system", "netdev"):
        yield Finding(
            f"ovn-bridge-datapath-type is {wanted!r}; there are system (the kernel) and netdev (user space)",
            "set it to one of them",
            (set_external_id("ovn-bridge-datapath-type", "netdev"),),
        )
    elif wanted == "system" and not facts.probes.machine.kernel_datapath:
        yield Finding(
            "this kernel has no openvswitch module, and the integration bridge is set up for it",
            "install a kernel that has it, or switch in user space",
            (set_external_id("ovn-bridge-datapath-type", "netdev"),),
        )


def tunnel_interface(facts: Facts) -> Iterable[Finding]:
    """In user space, the tunnels' address is on a bridge of Open vSwitch."""
    switch = facts.snapshot.vswitch
    if (
        switch is None
        or switch.ids.get("ovn-bridge-datapath-type") != "netdev"
        or len(facts.cluster.hosts) < 2
    ):
        return
    link = next((link for link in facts.snapshot.links if switch.encap_ip in link.addresses), None)
    if link and link.name not in {bridge.name for bridge in switch.bridges}:
        bridge = f"br{link.name}"[:15]
        yield Finding(
            f"{switch.encap_ip} is on {link.name}; in user space Open vSwitch sends tunnels through its own "
            "bridges only",
            f"make {link.name} a port of a bridge that has its addresses and routes",
            (
                ("ovn-docker", "underlay", "bridge", "--interface", link.name, "--bridge", bridge,
                 "--datapath", "netdev"),
            ),
        )  # fmt: skip


def tls(facts: Facts) -> Iterable[Finding]:
    """With TLS, key and certificates are there, valid, and stay so for 30 days."""
    switch = facts.snapshot.vswitch
    ids = switch.ids if switch else {}
    if not any("ssl:" in ids.get(key, "") for key in ("ovn-nb", "ovn-remote")):
        return
    set_ssl = "and have Open vSwitch use it: ovs-vsctl set-ssl PRIVATE-KEY CERTIFICATE CA-CERT"
    if switch and switch.tls is None:
        yield Finding("the databases want TLS, and Open vSwitch has no key", f"make one {set_ssl}")
    for one in facts.probes.certificates:
        if one.problem:
            yield Finding(
                f"the {one.what} {one.path}: {one.problem}", f"put it there, or make another {set_ssl}"
            )
        elif one.expires is not None:
            days = (one.expires - facts.snapshot.taken) / 86400
            if days < 0:
                yield Finding(
                    f"the {one.what} {one.path} expired {-days:.0f} days ago",
                    f"renew it in place, or make another {set_ssl}",
                )
            elif days < EXPIRY:
                yield Finding(
                    f"the {one.what} {one.path} expires in {math.floor(days)} days",
                    f"renew it in place, or make another {set_ssl}",
                    severity=Severity.WARN,
                )


# ovn-controller and its bridge


def controller(facts: Facts) -> Iterable[Finding]:
    """ovn-controller runs."""
    if facts.snapshot.process("ovn-controller").pid is None:
        yield Finding(
            "ovn-controller does not run: nothing that changes reaches this host",
            "start it",
            (START,),
            safe=True,
        )


def controller_connected(facts: Facts) -> Iterable[Finding]:
    """ovn-controller is connected to the southbound database."""
    said = facts.probes.controller
    if not said:
        yield Finding(
            "ovn-controller does not answer on its control socket: it hangs, or has much to do",
            "see /var/log/ovn/ovn-controller.log; restart it",
            RESTART,
        )
    elif said != "connected":
        yield Finding(
            f"ovn-controller is {said} to the southbound database, which answers us",
            "it tries again within 8 s; if it stays so, see /var/log/ovn/ovn-controller.log, and restart it",
            RESTART,
        )


def integration_bridge(facts: Facts) -> Iterable[Finding]:
    """The integration bridge is there."""
    switch = facts.snapshot.vswitch
    if switch and switch.integration not in {bridge.name for bridge in switch.bridges}:
        yield Finding(
            f"Open vSwitch has no bridge {switch.integration}, which ovn-controller makes at its start",
            "restart ovn-controller",
            RESTART,
            safe=True,
        )


def fail_mode(facts: Facts) -> Iterable[Finding]:
    """The integration bridge forwards nothing that OVN has not asked for."""
    switch = facts.snapshot.vswitch
    for bridge in switch.bridges if switch else ():
        if switch and bridge.name == switch.integration and bridge.fail_mode != "secure":
            yield Finding(
                f"{bridge.name} has fail mode {bridge.fail_mode or 'standalone'}: without ovn-controller "
                "it connects all networks with each other",
                "set it to secure",
                (("ovs-vsctl", "set-fail-mode", bridge.name, "secure"),),
                safe=True,
            )


def controller_current(facts: Facts) -> Iterable[Finding]:
    """ovn-controller of this host takes up changes."""
    sync = facts.probes.sync
    if sync is None:
        raise NotChecked("the databases cannot be asked")
    if facts.snapshot.system_id not in sync.ahead:
        yield Finding(
            "ovn-controller is connected and did not take up a change within some seconds",
            "see /var/log/ovn/ovn-controller.log for what it is busy with",
        )


def set_external_id(key: str, value: str) -> tuple[str, ...]:
    """The command that sets a key of the Open_vSwitch table (ovs-vsctl(8))."""
    quoted = f'"{value}"' if re.search(r"[^\w.-]", value) else value
    return ("ovs-vsctl", "set", "Open_vSwitch", ".", f"external_ids:{key}={quoted}")


def _local(address: str) -> bool:
    ip = ip_address(address)
    return ip.is_loopback or ip.is_link_local


def _likely(facts: Facts, own: list[str]) -> str:
    """Of our addresses the one that is nearest to the tunnels' addresses of the other hosts."""
    others = [
        encap.ip
        for row in facts.cluster.chassis.values()
        if row.name != facts.snapshot.system_id
        for encap in row.encaps
    ]
    near = [(-(_number(a) ^ _number(b)).bit_length(), a) for a in own for b in others if _same(a, b)]
    return max(near)[1] if near else own[0] if len(own) == 1 else ""


def _same(one: str, other: str) -> bool:
    return ip_version(one) == ip_version(other)


def _number(address: str) -> int:
    return int(ip_address(address))


def _usual_encap(facts: Facts) -> str:
    types = [
        encap.type
        for row in facts.cluster.chassis.values()
        if row.name != facts.snapshot.system_id
        for encap in row.encaps
    ]
    return max(types, key=types.count, default="geneve")
