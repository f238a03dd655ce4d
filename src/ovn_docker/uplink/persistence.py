"""Configuration files that keep a bridge over the next boot: for netplan, ifupdown, systemd-networkd."""

import json
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from ovn_docker.host.run import succeeds
from ovn_docker.uplink.dhcp import DhcpClient, settings
from ovn_docker.uplink.uplink import Uplink

KINDS = ("netplan", "ifupdown", "systemd-networkd")

_EVERYWHERE = {"-4": "0.0.0.0/0", "-6": "::/0"}


@dataclass(frozen=True)
class BridgeLayout:
    """The interface, the bridge, its datapath_type, and the MAC and MTU (bytes) of both."""

    interface: str
    bridge: str
    datapath: str
    mac: str
    mtu: int


@dataclass(frozen=True)
class StaticRoute:
    """A static route: destination (``default`` or a prefix), and arguments of ip-route(8) by keyword."""

    family: str
    to: str
    words: dict[str, str]
    onlink: bool


@dataclass(frozen=True)
class StaticNetwork:
    """The addresses and routes to write down; the others come by DHCP and router advertisements."""

    addresses: list[str]
    routes: list[StaticRoute]
    dhcp4: bool
    dhcp6: bool
    advertisements: bool


def kind_here() -> str | None:
    """Return the kind of files that configure this machine's network, if it can be determined."""
    if any(Path("/etc/netplan").glob("*.yaml")):
        return "netplan"
    if succeeds("networkctl", "list") and any(Path("/etc/systemd/network").glob("*.network")):
        return "systemd-networkd"
    return "ifupdown" if Path("/etc/network/interfaces").exists() else None


def configuration(kind: str, layout: BridgeLayout, uplink: Uplink, clients: list[DhcpClient]) -> str:
    """Return the file of a kind, one of KINDS. Its first lines say where to put it, and what else to do."""
    static = _static(uplink, clients)
    write = {"netplan": _netplan, "ifupdown": _ifupdown, "systemd-networkd": _networkd}[kind]
    return write(layout, static)


def _static(uplink: Uplink, clients: list[DhcpClient]) -> StaticNetwork:
    dhcp4, dhcp6 = (any(family in _families(client) for client in clients) for family in (4, 6))
    # An address that udhcpc sets has no lifetime by which to recognise it.
    leased = any(client.program == "udhcpc" for client in clients)
    addresses = [
        words[1]
        for words in uplink.addresses
        if "valid_lft" not in words and "link" not in words and not (leased and words[0] == "-4")
    ]
    routes = [_route(words) for words in uplink.routes if "nexthop" not in words]
    return StaticNetwork(
        addresses,
        [
            route
            for route in routes
            if route.words.get("proto") not in {"dhcp", "ra", "kernel"}
            and not (dhcp4 and route.family == "-4" and route.to == "default")
        ],
        dhcp4,
        dhcp6,
        any(words[0] == "-6" and "mngtmpaddr" in words for words in uplink.addresses)
        or any(route.words.get("proto") == "ra" for route in routes),
    )


def _families(client: DhcpClient) -> set[int]:
    """Return the IP versions for which a client leases addresses."""
    if client.program == "systemd-networkd":
        values = {
            line.partition("=")[2].strip().lower()
            for text in settings(client)
            for line in text.splitlines()
            if line.strip().startswith("DHCP=")
        }
        both = values & {"yes", "both", "true", "1", "on"}
        return ({4} if both or "ipv4" in values else set()) | ({6} if both or "ipv6" in values else set())
    if client.program == "dhcpcd":
        return {4} if "-4" in client.argv else {6} if "-6" in client.argv else {4, 6}
    return {6} if "-6" in client.argv else {4}


def _route(words: list[str]) -> StaticRoute:
    family, *rest = words
    rest = [word for word in rest if word != "unicast"]
    pairs: dict[str, str] = {}
    position = 1
    onlink = False
    while position < len(rest):
        word = rest[position]
        if word == "onlink":
            onlink = True
            position += 1
        elif word == "via" and rest[position + 1] in {"inet", "inet6"}:
            pairs[word] = rest[position + 2]
            position += 3
        else:
            pairs[word] = rest[position + 1] if position + 1 < len(rest) else ""
            position += 2
    return StaticRoute(family, rest[0], pairs, onlink)


def _table(route: StaticRoute) -> str | None:
    table = route.words.get("table", "main")
    return None if table == "main" else table


def _netplan(layout: BridgeLayout, static: StaticNetwork) -> str:
    lines = [
        f"# /etc/netplan/90-{layout.bridge}.yaml, mode 0600",
        f"# Remove the settings of {layout.interface} from other files there: netplan merges lists.",
        "# If cloud-init wrote them (50-cloud-init.yaml), keep it from writing them again:",
        "#   echo 'network: {config: disabled}' > /etc/cloud/cloud.cfg.d/99-disable-network-config.cfg",
        "# Then: netplan try",
        "network:",
        "  version: 2",
        "  ethernets:",
        f"    {json.dumps(layout.interface)}:",
        "      dhcp4: false",
        "      dhcp6: false",
        "      accept-ra: false",
        "      link-local: []",
        "  bridges:",
        f"    {json.dumps(layout.bridge)}:",
        f"      interfaces: [{json.dumps(layout.interface)}]",
        "      openvswitch:",
        f"        other-config: {{hwaddr: {json.dumps(layout.mac)}}}",
        f"      mtu: {layout.mtu}",
        f"      dhcp4: {str(static.dhcp4).lower()}",
        f"      dhcp6: {str(static.dhcp6).lower()}",
        f"      accept-ra: {str(static.advertisements).lower()}",
    ]
    if static.addresses:
        lines.append("      addresses:")
        lines += [f"        - {json.dumps(one)}" for one in static.addresses]
    if static.routes:
        lines.append("      routes:")
    for route in static.routes:
        to = _EVERYWHERE[route.family] if route.to == "default" else _prefix(route)
        lines.append(f"        - to: {json.dumps(to)}")
        for key, word in (("via", "via"), ("metric", "metric"), ("from", "src"), ("mtu", "mtu")):
            if word in route.words:
                value = route.words[word]
                lines.append(f"          {key}: {value if value.isdigit() else json.dumps(value)}")
        if route.onlink:
            lines.append("          on-link: true")
        if "via" not in route.words:
            lines.append("          scope: link")
        if table := _table(route):
            lines.append(f"          table: {table}")
    return "\n".join(lines) + "\n"


def _prefix(route: StaticRoute) -> str:
    """Return the destination with its prefix length."""
    return str(ip_interface(route.to)) if "/" not in route.to else route.to


def _ifupdown(layout: BridgeLayout, static: StaticNetwork) -> str:
    bridge, interface = layout.bridge, layout.interface
    extra = (
        f'set Bridge {bridge} datapath_type={layout.datapath} other_config:hwaddr=\\"{layout.mac}\\" '
        f"-- set Interface {bridge} mtu_request={layout.mtu}"
    )
    lines = [
        f"# /etc/network/interfaces.d/{bridge}",
        f"# Remove the settings of {interface} from /etc/network/interfaces and other files, also `auto`.",
        "# Scripts of the package openvswitch-switch read this file (see its README.Debian). Then: reboot",
        f"auto {bridge}",
        f"allow-ovs {bridge}",
        f"iface {bridge} inet {'dhcp' if static.dhcp4 else 'manual'}",
        "    ovs_type OVSBridge",
        f"    ovs_ports {interface}",
        f"    ovs_extra {extra}",
        f"    up ip link set dev {bridge} up",
    ]
    for one in static.addresses:
        family = "-6" if ":" in one else "-4"
        broadcast = " broadcast +" if family == "-4" else ""
        lines.append(f"    up ip {family} address replace {one}{broadcast} dev {bridge}")
    for route in static.routes:
        words = " ".join(
            f"{word} {value}" for word, value in route.words.items() if word not in {"dev", "pref"}
        )
        onlink = " onlink" if route.onlink else ""
        lines.append(f"    up ip {route.family} route replace {route.to} {words} dev {bridge}{onlink}")
    if static.dhcp6 or static.advertisements:
        lines += [
            "",
            f"iface {bridge} inet6 {'dhcp' if static.dhcp6 else 'auto'}",
            f"    accept_ra {2 if static.advertisements else 0}",
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"allow-{bridge} {interface}",
            f"iface {interface} inet manual",
            f"    ovs_bridge {bridge}",
            "    ovs_type OVSPort",
            f"    up sysctl -q -w net/ipv6/conf/{interface}/disable_ipv6=1 || true",
            "",
        ]
    )


def _networkd(layout: BridgeLayout, static: StaticNetwork) -> str:
    dhcp = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6", (False, False): "no"}
    bridge, interface = layout.bridge, layout.interface
    own = [
        "[Match]",
        f"Name={bridge}",
        "",
        "[Network]",
        f"DHCP={dhcp[static.dhcp4, static.dhcp6]}",
        f"IPv6AcceptRA={'yes' if static.advertisements else 'no'}",
        *(f"Address={one}" for one in static.addresses),
    ]
    for route in static.routes:
        own += ["", "[Route]"]
        own.append(f"Destination={_EVERYWHERE[route.family] if route.to == 'default' else route.to}")
        names = {"via": "Gateway", "metric": "Metric", "src": "PreferredSource", "mtu": "MTUBytes"}
        own += [f"{name}={route.words[word]}" for word, name in names.items() if word in route.words]
        if route.onlink:
            own.append("GatewayOnLink=yes")
        if "via" not in route.words:
            own.append("Scope=link")
        if table := _table(route):
            own.append(f"Table={table}")
    files = {
        f"10-{interface}.network": ["[Match]", f"Name={interface}", "", "[Network]", "DHCP=no",
                                    "IPv6AcceptRA=no", "LinkLocalAddressing=no"],
        f"10-{bridge}.network": own,
    }  # fmt: skip
    lines = [
        "#!/bin/sh",
        "# systemd-networkd makes no Open vSwitch bridges: this script stores the bridge in Open vSwitch and",
        f"# two files set the addresses. Run it once, remove other .network files for {interface}, reboot.",
        "set -eu",
        f"ovs-vsctl --may-exist add-br {bridge} -- --may-exist add-port {bridge} {interface} \\",
        f"    -- set Bridge {bridge} datapath_type={layout.datapath} \\",
        f"        other_config:hwaddr='\"{layout.mac}\"' \\",
        f"    -- set Interface {bridge} mtu_request={layout.mtu} \\",
        f"    -- remove Port {interface} other_config transient",
    ]
    for name, content in files.items():
        lines += [f"cat > /etc/systemd/network/{name} <<'EOF'", *content, "EOF"]
    return "\n".join(lines) + "\n"
