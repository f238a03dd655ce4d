"""Guard of containers against rogue routers and DHCP servers, in nftables' egress hook of their links.

ACLs of OVN cannot do this: a logical switch passes every router advertisement before any ACL is evaluated (a
flow of priority 65532, ovn-northd(8), tables "from-lport ACLs" and "to-lport ACLs"). So each host drops them
where they enter its containers, from whichever host, datapath or tunnel. The hook is run when the kernel
sends on a link, after Open vSwitch, whose datapath may be in the kernel or use a packet socket. nftables
finds a message behind any number of IPv6 extension headers (RFC 7113), and in the first
fragment of several.

``nft list table netdev ovn-docker`` shows the table: a chain with the rules, and one for each link that jumps
to it. A request in the kernel's own format takes 0.2 ms for a link, nft(8) 7 ms. Formats:
linux/netfilter/nf_tables.h.
"""

import logging
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ovn_docker.errors import Unavailable
from ovn_docker.host.kernel import netlink
from ovn_docker.host.kernel.netlink import attribute, attributes
from ovn_docker.model import HOST_LINK, ROUTER_MAC

log = logging.getLogger(__name__)

TABLE = "ovn-docker"
_RULES = "routers"

_ICMP, _UDP, _ICMPV6 = 1, 17, 58
_DROPPED = (
    (_ICMPV6, b"\x86"),  # router advertisement (RFC 4861, 4.2)
    (_ICMPV6, b"\x89"),  # redirect (RFC 4861, 4.5)
    (_ICMP, b"\x05"),  # redirect (RFC 792)
    (_ICMP, b"\x09"),  # router advertisement (RFC 1256)
    (_UDP, struct.pack(">HH", 67, 68)),  # from a DHCP server to a client (RFC 2131, 4.1)
    (_UDP, struct.pack(">HH", 547, 546)),  # from a DHCPv6 server to a client (RFC 8415, 7.2)
)
"""Packets to drop: the protocol, and the first bytes of its header."""

_PATIENCE = 5.0
"""Time limit of the kernel's answer in seconds."""

_AT_ONCE = 500
"""Number of chains deleted in one batch, which has to fit into the socket's buffer."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_FAMILY = struct.Struct(">BBH")  # struct nfgenmsg: family, version, subsystem of a batch
_NETFILTER = 12  # linux/netlink.h, NETLINK_NETFILTER
_NETDEV = 5  # NFPROTO_NETDEV
_BEGIN, _END, _NFTABLES = 16, 17, 10  # linux/netfilter/nfnetlink.h, NFNL_MSG_BATCH_*, NFNL_SUBSYS_NFTABLES
_NEWTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _DELCHAIN = 0, 2, 3, 4, 5  # NFT_MSG_*
_NEWRULE, _DELRULE = 6, 8
_REQUEST, _ACK, _DUMP, _CREATE, _APPEND = 0x1, 0x4, 0x300, 0x400, 0x800  # NLM_F_*
_ERROR, _DONE = 2, 3  # NLMSG_*
_NESTED = 0x8000  # NLA_F_NESTED
_EGRESS = 1  # NF_NETDEV_EGRESS
_DROP, _ACCEPT, _JUMP = 0, 1, 0xFFFFFFFD  # NF_DROP, NF_ACCEPT, NFT_JUMP
_LINK_LAYER, _TRANSPORT = 0, 2  # NFT_PAYLOAD_LL_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
_L4PROTO = 16  # NFT_META_L4PROTO


@dataclass(frozen=True, slots=True)
class _NftMessage:
    """A message of a batch, which the kernel applies as a whole or not at all."""

    kind: int
    flags: int
    body: bytes


def unguarded(links: Iterable[str]) -> set[str]:
    """Return the links among *links* that exist in this network namespace and are not guarded."""
    try:
        return _links().intersection(links) - _chains()
    except (OSError, Unavailable):
        return set(links)


def remove_unused() -> bool:
    """Delete the table if no link of ours is left; return whether it existed."""
    if any(name.startswith(HOST_LINK) for name in _links()):
        return False
    try:
        _change([_NftMessage(_DELTABLE, 0, _text(1, TABLE))])
    except (OSError, Unavailable):  # the table does not exist
        return False
    return True


class RouterGuard:
    """Guards the links of containers.

    Without the hook in the kernel containers start unguarded, and the log has one warning.
    """

    def __init__(self) -> None:
        self._loaded = False
        self._reported = ""

    def guard(self, link: str) -> None:
        """Guard a link of ours that is not guarded yet."""
        try:
            try:
                _change(_guarding(link))
            except FileNotFoundError:  # the first link, or nftables was flushed
                _change([*_making_rules(), *_guarding(link)])
        except (OSError, Unavailable) as error:
            if link in _links():
                self._report(error)

    def restore(self, links: Iterable[str]) -> None:
        """Guard *links* with the rules of this version; delete the chains of deleted links.

        Kernels before 6.16 delete the chain of a link with the link. Deleting a chain takes 10 ms, so it is
        not done while Docker waits.
        """
        try:
            chains, existing = _chains(), _links()
            wanted = existing.intersection(links)
            if wanted and (not self._loaded or _RULES not in chains):
                _change(_making_rules())
                self._loaded = True
            chains = {name for name in chains if name.startswith(HOST_LINK)}
            if gone := sorted(chains - existing)[:_AT_ONCE]:
                _change([_NftMessage(_DELCHAIN, 0, _text(1, TABLE) + _text(3, link)) for link in gone])
        except (OSError, Unavailable) as error:
            self._report(error)
            return
        for link in sorted(wanted - chains):
            self.guard(link)

    def _report(self, error: Exception) -> None:
        why = str(error)
        if why != self._reported:
            log.warning(
                "containers may believe forged router advertisements, redirects and DHCP answers: %s; "
                "to guard them takes nftables' egress hook (Linux 5.16, CONFIG_NETFILTER_EGRESS)",
                why,
            )
        self._reported = why


def _guarding(link: str) -> list[_NftMessage]:
    hook = _nest(4, _number(1, _EGRESS), _number(2, 0), _text(3, link))
    chain = _text(1, TABLE) + _text(3, link) + hook + _number(5, _ACCEPT) + _text(7, "filter")
    return [_NftMessage(_NEWCHAIN, _CREATE, chain), _rule(link, _verdict(_JUMP, _RULES))]


def _making_rules() -> list[_NftMessage]:
    rules = _text(1, TABLE) + _text(3, _RULES)
    return [
        _NftMessage(_NEWTABLE, _CREATE, _text(1, TABLE)),
        _NftMessage(_NEWCHAIN, _CREATE, rules),
        _NftMessage(_DELRULE, 0, _text(1, TABLE) + _text(2, _RULES)),  # all rules of the chain
        _rule(_RULES, *_compare(_payload(_LINK_LAYER, 6, len(ROUTER_MAC)), ROUTER_MAC), _verdict(_ACCEPT)),
        *(
            _rule(
                _RULES,
                *_compare(_expression("meta", _number(2, _L4PROTO), _number(1, 1)), bytes([protocol])),
                *_compare(_payload(_TRANSPORT, 0, len(begins)), begins),
                _verdict(_DROP),
            )
            for protocol, begins in _DROPPED
        ),
    ]


def _rule(chain: str, *expressions: bytes) -> _NftMessage:
    body = _text(1, TABLE) + _text(2, chain) + _nest(4, *expressions)
    return _NftMessage(_NEWRULE, _CREATE | _APPEND, body)


def _expression(name: str, *data: bytes) -> bytes:
    return _nest(1, _text(1, name), _nest(2, *data))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", *map(_number, range(1, 6), (1, base, offset, length)))


def _compare(load: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return expressions that load register 1 and compare it with *value*."""
    return load, _expression("cmp", _number(1, 1), _number(2, 0), _nest(3, attribute(1, value)))


def _verdict(code: int, chain: str = "") -> bytes:
    to = _text(2, chain) if chain else b""
    return _expression("immediate", _number(1, 0), _nest(2, _nest(2, _number(1, code) + to)))


def _nest(number: int, *values: bytes) -> bytes:
    return attribute(number | _NESTED, b"".join(values))


def _text(number: int, text: str) -> bytes:
    return attribute(number, text.encode() + b"\0")


def _number(number: int, value: int) -> bytes:
    return attribute(number, struct.pack(">I", value))


def _message(kind: int, flags: int, sequence: int, body: bytes, family: int = _NETDEV, of: int = 0) -> bytes:
    body = _FAMILY.pack(family, 0, of) + body
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, sequence, 0) + body


def _change(changes: list[_NftMessage]) -> None:
    """Send changes, which the kernel makes all or none. Raises OSError.

    The kernel answers each message that fails, and the last one.
    """
    batch = [_message(_BEGIN, 0, 0, b"", socket.AF_UNSPEC, _NFTABLES)]
    for number, change in enumerate(changes, 1):
        flags = change.flags | (_ACK if number == len(changes) else 0)
        batch.append(_message(_NFTABLES << 8 | change.kind, flags, number, change.body))
    batch.append(_message(_END, 0, len(batch), b"", socket.AF_UNSPEC, _NFTABLES))
    with _kernel() as kernel:
        kernel.send(b"".join(batch))
        for _, content in _received(kernel):
            _check(content)


def _chains() -> set[str]:
    """Return the names of the chains in our table. Raises OSError."""
    found: set[str] = set()
    with _kernel() as kernel:
        kernel.send(_message(_NFTABLES << 8 | _GETCHAIN, _DUMP, 1, b""))
        while True:
            for kind, content in _received(kernel):
                if kind in {_ERROR, _DONE}:
                    _check(content)
                    return found
                chain = attributes(content[_FAMILY.size :])
                if chain.get(1) == TABLE.encode() + b"\0":
                    found.add(chain[3].rstrip(b"\0").decode())


def _links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _check(acknowledgement: bytes) -> None:
    """Raise the OSError that an acknowledgement carries, if any."""
    (number,) = struct.unpack_from("i", acknowledgement)
    if number:
        raise OSError(-number, os.strerror(-number))


def _kernel() -> socket.socket:
    kernel = netlink.to_kernel(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    kernel.settimeout(_PATIENCE)
    return kernel


def _received(kernel: socket.socket) -> list[tuple[int, bytes]]:
    """Return kind and content of the messages in the next datagram of the kernel."""
    data, messages = kernel.recv(1 << 16), []
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        messages.append((kind, data[_HEADER.size : size]))
        data = data[size + -size % 4 :]
    return messages
