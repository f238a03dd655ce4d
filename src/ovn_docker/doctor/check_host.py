"""Checks of this host: Docker, the driver, Open vSwitch and its settings, ovn-controller. Pure."""

import math
import re
from collections.abc import Iterable
from ipaddress import ip_address
from uuid import NAMESPACE_DNS, uuid5

from ovn_docker.doctor.diagnosis import CheckFunction, Facts, Finding, NotChecked, Severity
from ovn_docker.host.barrier import TABLE, UP
from ovn_docker.host.daemons import CONTROLLER, VSWITCHD
from ovn_docker.inspect.reach import Reached
from ovn_docker.inspect.snapshot import ip_version
from ovn_docker.model import ENCAPS, NAMESERVERS

START = ("ovn-docker", "host", "start")
RESTART = (("ovn-docker", "host", "stop"), START)
SETUP = "`ovn-docker host setup` sets all of the guide's settings"

OLDEST, NEWEST = (20, 10), (29, 99)
"""Versions of Docker that ovn-docker is tested with."""

EXPIRY = 30
"""Days before a certificate expires from which it is reported, or a third of its validity if that is less."""

RECENT = 3600.0
"""Seconds after a failure of a thread for which it is reported."""

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
            f"ovn-docker is not tested with Docker {engine.version}, only with 20.10 to 29",
            "use one of these versions, or a newer ovn-docker",
            severity=Severity.WARN,
        )


def docker_apparmor(facts: Facts) -> Iterable[Finding]:
    """Docker can load its AppArmor profile, where the kernel has AppArmor."""
    if not facts.probes.machine.apparmor:
        yield Finding(
            "the kernel has AppArmor, but apparmor_parser is not installed: Docker fails to start "
            "containers, or starts them without its profile",
            "install the parser, which docker.io only recommends",
            (("apt-get", "install", "apparmor"),),
            severity=Severity.WARN,
        )


def docker_dns(facts: Facts) -> Iterable[Finding]:
    """Docker's resolver asks servers that containers reach."""
    servers = facts.probes.machine.dns
    if servers and set(servers) <= set(map(str, NAMESERVERS)):
        yield Finding(
            f"{_DNS} lists only OVN's servers: names outside the cluster are not found, and questions that "
            "OVN cannot answer, such as for the IPv6 address of a name, take seconds",
            "add a third server that containers can reach, and restart Docker",
            severity=Severity.WARN,
        )
    for server in servers:
        try:
            loopback = ip_address(server).is_loopback
        except ValueError:
            what = f"{_DNS} has {server!r}, which is not an IP address: dockerd will not start"
            yield Finding(what, "correct the entry", severity=Severity.WARN)
            continue
        if loopback:
            yield Finding(
                f"{_DNS} has {server}: in a container that address is the container's own, so names outside "
                "the cluster are not found",
                "replace it by a server that containers can reach, and restart Docker",
            )


def driver(facts: Facts) -> Iterable[Finding]:
    """The driver answers on its socket."""
    if reason := facts.snapshot.missing.get("driver"):
        yield Finding(reason, "start the driver", (START,), safe=True)


def driver_threads(facts: Facts) -> Iterable[Finding]:
    """Every thread of the driver runs, and did not fail within the last hour."""
    driver = facts.snapshot.driver
    if driver is None or driver.threads is None:
        raise NotChecked("the driver did not list its threads on its control socket")
    for state in driver.threads:
        if state.since is None or (not state.waits and state.since > RECENT):
            continue
        now = "does not run now" if state.waits else "runs again"
        yield Finding(
            f"the driver's thread {state.name}, which {state.purpose}, {now}: it failed {state.failures} "
            f"{'time' if state.failures == 1 else 'times'}, last {state.since:.0f} s ago ({state.error})",
            "report it with the traceback in the driver's log; if it happens again, restart the driver",
            (("ovs-appctl", "-t", driver.program, "exit"), START) if state.waits else (),
            severity=Severity.FAIL if state.waits else Severity.WARN,
        )


def barrier(facts: Facts) -> Iterable[Finding]:
    """Containers do not reach OVN's databases or the metrics."""
    state = facts.probes.barrier
    if state and state != "off" and not state.startswith(UP):
        yield Finding(
            f"there is no barrier between containers and the cluster's services: {state}",
            "remove that obstacle; the driver tries again every few seconds",
            facts.probes.machine.distribution.installation("nftables") if "not installed" in state else (),
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
        return (
            "use TLS for the databases: containers on macvlan and ipvlan are direct neighbours of the hosts"
        )
    if state == "off":
        return "remove --barrier off from the driver's options, or filter this traffic yourself"
    return f"compare `nft list table inet {TABLE}` with the network's bridge"


def driver_at_boot(facts: Facts) -> Iterable[Finding]:
    """The driver starts at boot (with systemd)."""
    units = facts.probes.machine.units
    disabled = [
        unit for unit, state in units.items() if unit.startswith("ovn-docker") and state == "disabled"
    ]
    if disabled:
        yield Finding(
            f"{' and '.join(disabled)} will not start at boot: containers that Docker restarts then find no "
            "driver",
            "enable the units",
            (("systemctl", "enable", *disabled),),
            safe=True,
            severity=Severity.WARN,
        )


def old_driver(facts: Facts) -> Iterable[Finding]:
    """OVN's own Docker drivers, whose programs have the same names, are not installed."""
    for path in facts.probes.machine.old_drivers:
        spec = "/plugins/" in path
        what = (
            "directs Docker to another driver of this name" if spec else "is the driver that comes with OVN"
        )
        cure = ("rm", path) if spec else ("apt-get", "remove", "--yes", "ovn-docker")
        yield Finding(f"{path} {what}", "remove it", (cure,), severity=Severity.WARN)


# Open vSwitch


def vswitch(facts: Facts) -> Iterable[Finding]:
    """The local Open_vSwitch database answers."""
    if reason := facts.snapshot.missing.get("vswitch"):
        yield Finding(reason, "start Open vSwitch", (START,))


def vswitchd(facts: Facts) -> Iterable[Finding]:
    """ovs-vswitchd runs."""
    if facts.snapshot.daemon(VSWITCHD).pid is None:
        yield Finding(
            "ovs-vswitchd does not run: no packet is switched here", "start it", (START,), safe=True
        )


def system_id(facts: Facts) -> Iterable[Finding]:
    """This host has a system-id, its name in OVN."""
    if facts.snapshot.system_id:
        return
    kept = facts.probes.machine.system_id
    name = kept or str(uuid5(NAMESPACE_DNS, f"{facts.snapshot.host}.ovn-docker"))
    value = "as in /etc/openvswitch/system-id.conf" if kept else "any name that no other host has"
    yield Finding(
        "the Open_vSwitch database does not have system-id, by which OVN knows this host",
        f"set it: {value}",
        (set_external_id("system-id", name),),
        safe=bool(kept),
    )


def remote(setting: str, port: int, other: str, other_port: int) -> CheckFunction:
    """Make the check that *setting* names databases; *other* most likely names the same hosts."""

    def check(facts: Facts) -> Iterable[Finding]:
        ids = facts.snapshot.vswitch.ids if facts.snapshot.vswitch else {}
        value = ids.get(setting, "")
        wrong = [part.strip() for part in value.split(",") if not _REMOTE.fullmatch(part.strip())]
        if value and not wrong:
            return
        example = ids.get(other, "")
        known = all(_REMOTE.fullmatch(part.strip()) for part in example.split(","))
        evidence = (
            f"{setting} is {value!r}, in which {wrong[0]!r} is not a database address"
            if value
            else f"the Open_vSwitch database does not have {setting}"
        )
        if known:
            like = ",".join(part.strip().replace(f":{other_port}", f":{port}") for part in example.split(","))
            yield Finding(evidence, f"set it, most likely like {other}", (set_external_id(setting, like),))
        else:
            yield Finding(evidence, f"set it to tcp:CENTRAL_IP:{port}; {SETUP}")

    return check


def encap_ip(facts: Facts) -> Iterable[Finding]:
    """The address of the tunnels is one of this host's."""
    ids = facts.snapshot.vswitch.ids if facts.snapshot.vswitch else {}
    value = ids.get("ovn-encap-ip", "")
    own = [address for link in facts.snapshot.links for address in link.addresses]
    own = [address for address in own if not _is_local(address)]
    if not value:
        evidence = "the Open_vSwitch database does not have ovn-encap-ip, the address of this host's tunnels"
    else:
        wrong = [part.strip() for part in value.split(",") if part.strip() not in own]
        if not wrong or any(part.strip() in {"127.0.0.1", "::1"} for part in value.split(",")):
            return
        evidence = f"ovn-encap-ip is {value}, but this host has {', '.join(own) or 'no address'}"
    likely = _likely_address(facts, own)
    commands = (set_external_id("ovn-encap-ip", likely),) if likely else ()
    yield Finding(evidence, "set it to the address of this host that the others reach", commands)


def encap_type(facts: Facts) -> Iterable[Finding]:
    """The tunnel type is one that works."""
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
            f"unknown ovn-bridge-datapath-type {wanted!r}: OVN has system (the kernel) and netdev (user "
            "space)",
            "set it to one of them",
            (set_external_id("ovn-bridge-datapath-type", "netdev"),),
        )
    elif wanted == "system" and not facts.probes.machine.kernel_datapath:
        yield Finding(
            "the integration bridge needs the kernel module openvswitch, which this kernel does not have",
            "install a kernel that has it, or use the datapath in user space",
            (set_external_id("ovn-bridge-datapath-type", "netdev"),),
        )


def tunnel_interface(facts: Facts) -> Iterable[Finding]:
    """With the datapath in user space, the tunnels' address is on a bridge of Open vSwitch."""
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
    """With TLS, key and certificates exist, are valid, and stay so for 30 days or a third of their time."""
    switch = facts.snapshot.vswitch
    ids = switch.ids if switch else {}
    if not any("ssl:" in ids.get(key, "") for key in ("ovn-nb", "ovn-remote")):
        return
    set_ssl = "and have Open vSwitch use it: ovs-vsctl set-ssl PRIVATE-KEY CERTIFICATE CA-CERT"
    if switch and switch.tls is None:
        yield Finding("the databases use TLS, but Open vSwitch has no private key", f"make one {set_ssl}")
    for one in facts.probes.certificates:
        if one.problem:
            yield Finding(
                f"the {one.what} {one.path}: {one.problem}", f"put the file there, or make another {set_ssl}"
            )
        elif one.expires is not None:
            days = (one.expires - facts.snapshot.taken) / 86400
            if days < 0:
                yield Finding(
                    f"the {one.what} {one.path} expired {-days:.0f} days ago",
                    f"renew it in place, or make another {set_ssl}",
                )
            elif days < (min(EXPIRY, one.days / 3) if one.days else EXPIRY):
                renews = 0 < one.days < EXPIRY  # of a host that joined
                yield Finding(
                    f"the {one.what} {one.path} expires in {math.floor(days)} days",
                    "the driver renews it, and its log says why it could not: "
                    "see `journalctl -u ovn-docker-overlay`"
                    if renews
                    else f"renew it in place, or make another {set_ssl}",
                    severity=Severity.WARN,
                )


# ovn-controller and its bridge


def controller(facts: Facts) -> Iterable[Finding]:
    """ovn-controller runs."""
    if facts.snapshot.daemon(CONTROLLER).pid is None:
        yield Finding(
            "ovn-controller does not run: changes do not reach this host",
            "start it",
            (START,),
            safe=True,
        )


def controller_connected(facts: Facts) -> Iterable[Finding]:
    """ovn-controller is connected to the southbound database."""
    status = facts.probes.controller
    if not status:
        yield Finding(
            "ovn-controller does not answer on its control socket: it hangs, or is busy",
            "see /var/log/ovn/ovn-controller.log; restart it",
            RESTART,
        )
    elif status != "connected":
        yield Finding(
            f"ovn-controller is {status} to the southbound database, although the database answers",
            "it tries again within 8 s; if this lasts, see /var/log/ovn/ovn-controller.log, and restart it",
            RESTART,
        )


def integration_bridge(facts: Facts) -> Iterable[Finding]:
    """The integration bridge exists."""
    switch = facts.snapshot.vswitch
    if switch and switch.integration not in {bridge.name for bridge in switch.bridges}:
        yield Finding(
            f"Open vSwitch has no bridge {switch.integration}, which ovn-controller creates when it starts",
            "restart ovn-controller",
            RESTART,
            safe=True,
        )


def fail_mode(facts: Facts) -> Iterable[Finding]:
    """The integration bridge forwards only what OVN's flows allow (fail mode secure)."""
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
    """ovn-controller of this host applies changes."""
    sync = facts.probes.sync
    if sync is None:
        raise NotChecked("the databases cannot be read")
    if facts.snapshot.system_id not in sync.ahead:
        yield Finding(
            "ovn-controller is connected, but did not apply a change within a few seconds",
            "see in /var/log/ovn/ovn-controller.log what it is doing",
        )


def set_external_id(key: str, value: str) -> tuple[str, ...]:
    """Return the command that sets a key of the Open_vSwitch table (ovs-vsctl(8))."""
    quoted = f'"{value}"' if re.search(r"[^\w.-]", value) else value
    return ("ovs-vsctl", "set", "Open_vSwitch", ".", f"external_ids:{key}={quoted}")


def _is_local(address: str) -> bool:
    ip = ip_address(address)
    return ip.is_loopback or ip.is_link_local


def _likely_address(facts: Facts, own: list[str]) -> str:
    """Return the address of this host that is nearest to the tunnel addresses of the other hosts."""
    others = [
        encap.ip
        for row in facts.cluster.chassis.values()
        if row.name != facts.snapshot.system_id
        for encap in row.encaps
    ]
    near = [(-(_number(a) ^ _number(b)).bit_length(), a) for a in own for b in others if _same_version(a, b)]
    return max(near)[1] if near else own[0] if len(own) == 1 else ""


def _same_version(one: str, other: str) -> bool:
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
