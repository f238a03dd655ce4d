"""Links of this host, over netlink (rtnetlink(7)): one socket per operation, none is shared."""

import ctypes
import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.model import IpNetwork

_SIOCETHTOOL = 0x8946  # linux/sockios.h
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
        with IPRoute() as netlink:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            for message in netlink.get_addr(family=family):
                if message.get_attr("IFA_LOCAL", message.get_attr("IFA_ADDRESS")) == str(address):
                    (link,) = netlink.get_links(message["index"])
                    return int(link.get_attr("IFLA_MTU"))
        raise Unavailable(
            f"no interface of this host has the address {address} that ovn-encap-ip names; correct it with: "
            "ovs-vsctl set Open_vSwitch . external_ids:ovn-encap-ip=LOCAL_IP"
        )

    def macs(self) -> set[str]:
        """MAC addresses of all links."""
        with IPRoute() as netlink:
            return {str(link.get_attr("IFLA_ADDRESS")) for link in netlink.get_links()}

    def routes(self) -> list[IpNetwork]:
        """Networks that this host has routes to, its own included; not the default route."""
        with IPRoute() as netlink:
            return [
                ip_network((destination, route["dst_len"]), strict=False)
                for route in netlink.get_routes(table=254)  # main, linux/rtnetlink.h
                if (destination := route.get_attr("RTA_DST")) and not ip_address(destination).is_multicast
            ]

    def _tx_checksums_off(self, link: str) -> None:
        """What ``ethtool -K LINK tx off`` does (netdevice(7), linux/ethtool.h)."""
        command = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, 0))
        request = struct.pack("16sP", link.encode(), ctypes.addressof(command)).ljust(40, b"\0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
            except OSError as error:
                raise OvnDockerError(
                    f"cannot turn off checksum offload on {link}: {error.strerror}"
                ) from None


def _explained(error: NetlinkError, what: str) -> OvnDockerError:
    if error.code == errno.EEXIST:
        return Conflict(f"{what}: a link of that name exists; delete it with: ip link del NAME")
    if error.code == errno.EPERM:
        return Unavailable(f"{what}: not permitted; the driver needs root or CAP_NET_ADMIN")
    return OvnDockerError(f"{what}: {error.args[1] if len(error.args) > 1 else error}")
