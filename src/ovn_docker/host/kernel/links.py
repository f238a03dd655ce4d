"""Links of this host, by rtnetlink(7), or by netdevice(7) where a request is shorter."""

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.host.kernel import netlink
from ovn_docker.host.kernel.netlink import attribute, attributes
from ovn_docker.host.kernel.router_guard import RouterGuard
from ovn_docker.model import IpAddress, IpNetwork, Occupied

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19  # linux/rtnetlink.h, RTM_*
_GETADDR, _GETROUTE = 22, 26
_CREATE = 0x600  # NLM_F_CREATE | NLM_F_EXCL
_INFO = struct.Struct("4xiII")  # struct ifinfomsg: index, flags, which of them to change
_ANY = _INFO.pack(0, 0, 0)
_ADDRESS, _IFNAME, _MTU, _LINK, _LINKINFO, _LINK_NETNSID = 1, 3, 4, 5, 18, 37  # linux/if_link.h, IFLA_*
_KIND, _DATA, _PEER = 1, 2, 1  # IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER
_OF_FAMILY, _INET_CONF, _ADDR_GEN_MODE = 26, 1, 8  # IFLA_AF_SPEC, IFLA_INET_CONF, IFLA_INET6_ADDR_GEN_MODE
_NO_ADDRESS = b"\x01"  # IN6_ADDR_GEN_MODE_NONE
_SILENT = {1: 0, 8: 1, 19: 8}
"""Settings of IPv4 (linux/ip.h, IPV4_DEVCONF_*): no forwarding, rp_filter strict, arp_ignore all."""
_UP, _LOWER_UP = 1, 1 << 16  # linux/if.h, IFF_UP and IFF_LOWER_UP: it has a carrier
_OF_LINK = struct.Struct("4xI")  # struct ifaddrmsg: index of the link
_REMOTE, _LOCAL = 1, 2  # linux/if_addr.h, IFA_ADDRESS and IFA_LOCAL: the same but on links with one peer
_ROUTE = struct.Struct("BB10x")  # struct rtmsg: family, length of the destination's prefix
_DESTINATION, _OUT, _TABLE, _MAIN = 1, 4, 15, 254  # RTA_DST, RTA_OIF, RTA_TABLE, RT_TABLE_MAIN
_THROUGH = {5, 9, 18}  # RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA: through a router

_SIOCGIFCONF, _SIOCGIFMTU, _SIOCGIFINDEX, _SIOCETHTOOL = 0x8912, 0x8921, 0x8933, 0x8946  # linux/sockios.h
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17  # linux/ethtool.h


@dataclass(frozen=True, slots=True)
class Link:
    """A link of this network namespace; *mtu* in bytes."""

    name: str
    mtu: int
    up: bool
    carrier: bool
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """MAC and addresses of an interface of a container, as the kernel has them."""

    link: str
    mac: str
    addresses: tuple[str, ...]


class KernelLinks:
    """Makes, deletes and lists the veth pairs of endpoints.

    Only Open vSwitch uses the host's end. If the kernel answered there, it would be a neighbour of the
    container, and a router advertisement could change the host's own routes (CVE-2020-13401).
    """

    def __init__(self) -> None:
        self._guard = RouterGuard()

    def create_veth(self, host: str, container: str, *, mac: str, mtu: int, tx_checksums: bool) -> None:
        """Create a veth pair: *host* is up and silent; *container* has the MAC, and Docker moves it later.

        *mtu* in bytes, for both ends. Without *tx_checksums* the container computes its checksums
        itself: OVS' userspace datapath passes packets on as it gets them.
        Raises Conflict if a link of that name exists.
        """
        size = attribute(_MTU, struct.pack("I", mtu))
        address = attribute(_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        peer = _ANY + _name(container) + address + size
        pair = attribute(_KIND, b"veth") + attribute(_DATA, attribute(_PEER, peer))
        message = _INFO.pack(0, _UP, _UP) + _name(host) + size + attribute(_LINKINFO, pair)
        try:
            netlink.request(_NEWLINK, _CREATE, message)
        except OSError as error:
            what = f"cannot make the link pair {host}, {container} with MTU {mtu}"
            raise _explained(error, what) from None
        # Not too late: no packet passes before Docker sets the other end up.
        self.silence(host)
        if not tx_checksums:
            self._tx_checksums_off(container)

    def silence(self, link: str) -> None:
        """Keep the kernel from sending and answering on a link of ours, which need not exist.

        IPv6 is off where /proc/sys can be written, else the link has no address; barrier.py drops the
        remaining packets. Raises OvnDockerError.
        """
        with suppress(OSError):  # ProtectKernelTunables (systemd.exec(5)), or a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").write_text("1")
        settings = b"".join(attribute(number, struct.pack("I", value)) for number, value in _SILENT.items())
        ipv4 = attribute(socket.AF_INET, attribute(_INET_CONF, settings))
        ipv6 = attribute(socket.AF_INET6, attribute(_ADDR_GEN_MODE, _NO_ADDRESS))
        for family in (ipv4, ipv6):
            try:
                netlink.request(_SETLINK, 0, _ANY + _name(link) + attribute(_OF_FAMILY, family))
            except OSError as error:  # EAFNOSUPPORT: no IPv6 at all, as on a link with an MTU below 1280
                if error.errno not in {errno.ENODEV, errno.EAFNOSUPPORT}:
                    raise _explained(error, f"cannot silence the link {link}") from None

    def unsilenced(self, prefix: str) -> list[str]:
        """Return the links whose name starts with *prefix* and on which the kernel still answers."""
        found = []
        for message in netlink.dump(_GETLINK, _ANY):
            link = attributes(message[_INFO.size :])
            if (name := _name_of(link)).startswith(prefix) and not _is_silent(link):
                found.append(name)
        return found

    def delete(self, link: str) -> None:
        """Delete a link and the other end of its pair; the link need not exist."""
        try:
            netlink.request(_DELLINK, 0, _ANY + _name(link))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise _explained(error, f"cannot delete the link {link}") from None

    def guard(self, link: str) -> None:
        """Drop packets of routers and DHCP servers, except marked routers, to the container of a new link."""
        self._guard.guard(link)

    def restore_guard(self, links: Iterable[str]) -> None:
        """Restore the guard of these links where it is missing; delete that of links that are gone."""
        self._guard.restore(links)

    def exists(self, link: str) -> bool:
        """Return whether our network namespace has a link of this name."""
        try:
            _ioctl(_SIOCGIFINDEX, struct.pack("16s24x", link.encode()))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise _explained(error, f"cannot look for the link {link}") from None
        return True

    def joined(self, prefix: str) -> dict[str, bool]:
        """Return the links whose name starts with *prefix*: True if the other end is in a container.

        The kernel sends IFLA_LINK_NETNSID if the peer is in another namespace.
        """
        found = {}
        for message in netlink.dump(_GETLINK, _ANY):
            link = attributes(message[_INFO.size :])
            name = _name_of(link)
            if name.startswith(prefix):
                found[name] = _LINK_NETNSID in link
        return found

    def mtu_of(self, address: IpAddress) -> int:
        """Return the MTU in bytes of the link with *address*. Raises Unavailable if there is no such link."""
        for link, found in _links_with_ipv4() if address.version == 4 else _links_with_ipv6():
            if found == address.packed:
                request = struct.pack("16s24x", link)
                with suppress(OSError):  # the link was deleted meanwhile
                    return int(struct.unpack("16xi20x", _ioctl(_SIOCGIFMTU, request))[0])
        raise Unavailable(
            f"no interface of this host has the address {address} that ovn-encap-ip names; correct it with: "
            "ovs-vsctl set Open_vSwitch . external_ids:ovn-encap-ip=LOCAL_IP"
        )

    def all(self) -> list[Link]:
        """Return all links with their addresses."""
        addresses: dict[int, list[str]] = {}
        for message in netlink.dump(_GETADDR, _OF_LINK.pack(0)):
            found = attributes(message[_OF_LINK.size :])
            (index,) = _OF_LINK.unpack_from(message)
            addresses.setdefault(index, []).append(str(ip_address(found.get(_LOCAL) or found[_REMOTE])))
        links = []
        for message in netlink.dump(_GETLINK, _ANY):
            index, flags, _ = _INFO.unpack_from(message)
            link = attributes(message[_INFO.size :])
            (mtu,) = struct.unpack("I", link[_MTU])
            up, carrier = bool(flags & _UP), bool(flags & _LOWER_UP)
            links.append(Link(_name_of(link), mtu, up, carrier, tuple(addresses.get(index, []))))
        return links

    def peers(self, prefix: str) -> dict[str, int]:
        """Return the links whose name starts with *prefix*, with the index of the other end there."""
        found = {}
        for message in netlink.dump(_GETLINK, _ANY):
            link = attributes(message[_INFO.size :])
            if (name := _name_of(link)).startswith(prefix) and _LINK in link:
                (found[name],) = struct.unpack("I", link[_LINK])
        return found

    def held(self, index: int) -> tuple[Held, ...]:
        """Return the link with this index, and those on top of it such as keepalived's macvlan.

        The network namespace is that of the calling thread.
        """
        addresses: dict[int, list[str]] = {}
        for message in netlink.dump(_GETADDR, _OF_LINK.pack(0)):
            found = attributes(message[_OF_LINK.size :])
            (of,) = _OF_LINK.unpack_from(message)
            addresses.setdefault(of, []).append(str(ip_address(found.get(_LOCAL) or found[_REMOTE])))
        held: list[Held] = []
        for message in netlink.dump(_GETLINK, _ANY):
            own, _, _ = _INFO.unpack_from(message)
            link = attributes(message[_INFO.size :])
            below = (
                struct.unpack("I", link[_LINK])[0] if _LINK in link and _LINK_NETNSID not in link else None
            )
            if index in (own, below):
                mac = link.get(_ADDRESS, b"").hex(":")
                one = Held(_name_of(link), mac, tuple(addresses.get(own, [])))
                held.insert(0 if own == index else len(held), one)
        return tuple(held)

    def tx_checksums(self, mac: str) -> tuple[str, bool]:
        """Return the link with this MAC, and whether tx-checksumming (ethtool(8)) is on.

        The name is empty if no link has it. The network namespace is that of the calling thread.
        """
        for message in netlink.dump(_GETLINK, _ANY):
            link = attributes(message[_INFO.size :])
            if link.get(_ADDRESS) == bytes.fromhex(mac.replace(":", "")):
                name = _name_of(link)
                return name, bool(_ethtool(name, _ETHTOOL_GTXCSUM, 0))
        return "", False

    def macs(self) -> set[str]:
        """Return the MAC addresses of all links."""
        links = [attributes(message[_INFO.size :]) for message in netlink.dump(_GETLINK, _ANY)]
        return {link[_ADDRESS].hex(":") for link in links if _ADDRESS in link}

    def routes(self) -> list[IpNetwork]:
        """Return the destinations of this host's routes, except the default route."""
        return [network for network, _ in self._routes()]

    def occupied(self) -> list[Occupied]:
        """Return the destinations of this host's routes, with the names of the links to them."""
        return [
            Occupied(network, _link_of(route), linked=not _THROUGH & route.keys())
            for network, route in self._routes()
        ]

    def _routes(self) -> Iterator[tuple[IpNetwork, dict[int, bytes]]]:
        for message in netlink.dump(_GETROUTE, _ROUTE.pack(0, 0)):
            family, length = _ROUTE.unpack_from(message)
            route = attributes(message[_ROUTE.size :])
            (table,) = struct.unpack("I", route[_TABLE])
            if table == _MAIN and _DESTINATION in route and family in {socket.AF_INET, socket.AF_INET6}:
                destination = ip_address(route[_DESTINATION])
                if not destination.is_multicast:
                    yield ip_network((destination, length), strict=False), route

    def _tx_checksums_off(self, link: str) -> None:
        """Turn transmit checksum offload off, as ``ethtool -K LINK tx off`` does."""
        try:
            _ethtool(link, _ETHTOOL_STXCSUM, 0)
        except OSError as error:
            raise OvnDockerError(f"cannot turn off checksum offload on {link}: {error.strerror}") from None


def _link_of(route: dict[int, bytes]) -> str:
    """Return the name of a route's link; empty if the link has gone or the route has several."""
    with suppress(OSError):
        if _OUT in route:
            return socket.if_indextoname(*struct.unpack("I", route[_OUT]))
    return ""


def _is_silent(link: dict[int, bytes]) -> bool:
    families = attributes(link.get(_OF_FAMILY, b""))
    ipv4 = attributes(families.get(socket.AF_INET, b"")).get(_INET_CONF, b"")  # an array, from number 1
    ipv6 = attributes(families.get(socket.AF_INET6, b""))
    return ipv6.get(_ADDR_GEN_MODE, _NO_ADDRESS) == _NO_ADDRESS and all(
        ipv4[4 * (number - 1) : 4 * number] == struct.pack("I", value) for number, value in _SILENT.items()
    )


def _ethtool(link: str, command: int, value: int) -> int:
    """Send a struct ethtool_value and return the answer's value (linux/ethtool.h). Raises OSError."""
    data = ctypes.create_string_buffer(struct.pack("II", command, value))
    _ioctl(_SIOCETHTOOL, struct.pack("16sP16x", link.encode(), ctypes.addressof(data)))
    return int(struct.unpack_from("II", data)[1])


def _ioctl(number: int, request: bytes) -> bytes:
    """Make a request of netdevice(7) and return the answer. Raises OSError."""
    with netlink.to_kernel(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket, number, request)


def _links_with_ipv4() -> Iterator[tuple[bytes, bytes]]:
    """Yield links and their IPv4 addresses: netdevice(7), SIOCGIFCONF."""
    room = 40 * 256
    while True:
        table = ctypes.create_string_buffer(room)
        request = struct.pack("iP", room, ctypes.addressof(table))
        length, _ = struct.unpack("iP", _ioctl(_SIOCGIFCONF, request))
        if length < room:
            break
        room *= 2
    yield from struct.iter_unpack("16s4x4s16x", table.raw[:length])


def _links_with_ipv6() -> Iterator[tuple[bytes, bytes]]:
    """Yield links and their IPv6 addresses: proc(5), /proc/net/if_inet6."""
    try:
        lines = Path("/proc/thread-self/net/if_inet6").read_bytes().splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        return
    except OSError as error:
        raise Unavailable(f"cannot ask the kernel about links: {error.strerror}") from None
    for line in lines:
        address, *_, link = line.split()
        yield link, bytes.fromhex(address.decode())


def _name(link: str) -> bytes:
    return attribute(_IFNAME, link.encode() + b"\0")


def _name_of(link: dict[int, bytes]) -> str:
    return link[_IFNAME].rstrip(b"\0").decode()


def _explained(error: OSError, what: str) -> OvnDockerError:
    if error.errno == errno.EEXIST:
        return Conflict(f"{what}: a link of that name exists; delete it with: ip link del NAME")
    if error.errno == errno.EPERM:
        return Unavailable(f"{what}: not permitted; the driver needs root or CAP_NET_ADMIN")
    return OvnDockerError(f"{what}: {error.strerror}")
