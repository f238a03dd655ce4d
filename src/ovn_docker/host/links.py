"""Links of this host, over netlink (rtnetlink(7)): one socket per operation, none is shared.

What a starting container waits for is asked with ioctl(2) where that suffices: a netlink socket of pyroute2's
takes a millisecond to open.
"""

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.model import IpNetwork

_SIOCGIFCONF, _SIOCGIFMTU, _SIOCETHTOOL = 0x8912, 0x8921, 0x8946  # linux/sockios.h
_ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h


class Links:
    """Makes, deletes and lists the veth pairs of endpoints."""

    def create_veth(self, host: str, container: str, *, mac: str, mtu: int, tx_checksums: bool) -> None:
        """Make a veth pair: *host* is up, *container* has the MAC and waits for Docker to move it.

        *mtu* in bytes, for both ends. Without *tx_checksums* the container computes its checksums
        itself: OVS' userspace datapath passes packets on as it gets them.
        Raises Conflict if a link of that name exists.
        """
        with IPRoute() as netlink:
            try:
                netlink.link(
                    "add",
                    ifname=host,
                    kind="veth",
                    mtu=mtu,
                    state="up",
                    peer={"ifname": container, "address": mac, "mtu": mtu},
                )
            except NetlinkError as error:
                raise _explained(
                    error, f"cannot make the link pair {host}, {container} with MTU {mtu}"
                ) from None
        if not tx_checksums:
            self._tx_checksums_off(container)

    def delete(self, link: str) -> None:
        """Delete a link, and with it the other end of its pair wherever that is; none is fine."""
        if not self.exists(link):
            return
        with IPRoute() as netlink:
            try:
                netlink.link("del", ifname=link)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise _explained(error, f"cannot delete the link {link}") from None

    def exists(self, link: str) -> bool:
        """Whether there is a link of this name in our network namespace."""
        try:
            socket.if_nametoindex(link)
        except OSError:
            return False
        return True

    def joined(self, prefix: str) -> dict[str, bool]:
        """Links whose name starts with *prefix*: True where the other end is in a container.

        The kernel tells by IFLA_LINK_NETNSID, present when the peer is in another namespace.
        """
        with IPRoute() as netlink:
            return {
                name: link.get_attr("IFLA_LINK_NETNSID") is not None
                for link in netlink.get_links()
                if (name := link.get_attr("IFLA_IFNAME")).startswith(prefix)
            }

    def mtu_of(self, address: IPv4Address | IPv6Address) -> int:
        """MTU in bytes of the link that has *address*. Raises Unavailable if none has."""
        for link, found in _links_with_ipv4() if address.version == 4 else _links_with_ipv6():
            if found == address.packed:
                request = struct.pack("16s24x", link)
                with suppress(OSError):  # the link has just gone
                    return int(struct.unpack("16xi20x", _ioctl(_SIOCGIFMTU, request))[0])
        raise Unavailable(
            f"no interface of this host has the address {address} that ovn-encap-ip names; correct it with: "
            "ovs-vsctl set Open_vSwitch . external_ids:ovn-encap-ip=LOCAL_IP"
        )

    def routes(self) -> list[IpNetwork]:
        """Networks that this host has routes to, its own included; not the default route."""
        with IPRoute() as netlink:
            return [
                ip_network((destination, route["dst_len"]), strict=False)
                for route in netlink.get_routes(table=254)  # main, linux/rtnetlink.h
                if (destination := route.get_attr("RTA_DST")) and not ip_address(destination).is_multicast
            ]

    def _tx_checksums_off(self, link: str) -> None:
        """What ``ethtool -K LINK tx off`` does (linux/ethtool.h)."""
        command = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, 0))
        try:
            _ioctl(_SIOCETHTOOL, struct.pack("16sP16x", link.encode(), ctypes.addressof(command)))
        except OSError as error:
            raise OvnDockerError(f"cannot turn off checksum offload on {link}: {error.strerror}") from None


def _ioctl(number: int, request: bytes) -> bytes:
    """Ask the kernel about a link: netdevice(7). Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket, number, request)


def _links_with_ipv4() -> Iterator[tuple[bytes, bytes]]:
    """Links and their IPv4 addresses: netdevice(7), SIOCGIFCONF."""
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
    """Links and their IPv6 addresses: proc(5), /proc/net/if_inet6."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for line in Path("/proc/thread-self/net/if_inet6").read_bytes().splitlines():
            address, *_, link = line.split()
            yield link, bytes.fromhex(address.decode())


def _explained(error: NetlinkError, what: str) -> OvnDockerError:
    if error.code == errno.EEXIST:
        return Conflict(f"{what}: a link of that name exists; delete it with: ip link del NAME")
    if error.code == errno.EPERM:
        return Unavailable(f"{what}: not permitted; the driver needs root or CAP_NET_ADMIN")
    return OvnDockerError(f"{what}: {error.args[1] if len(error.args) > 1 else error}")
