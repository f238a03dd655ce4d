"""Multicast snooping of a network: `-o ovn.multicast=snoop`. Pure."""

from collections.abc import Mapping

MULTICAST = "ovn-docker:multicast"
"""Of a network: ``snoop`` if its multicast is delivered to the members of a group alone."""

_QUERIER = {
    "mcast_eth_src": "0e:42:00:00:00:01",
    "mcast_ip6_src": "fe80::c42:ff:fe00:1",
    "mcast_query_interval": "10",
}
"""OVN's queries. Their sources are a router's MAC that no container has, as it follows from the address
0.0.0.1, and the link-local address of that MAC: nodes ignore MLD queries from other addresses (RFC 3810,
5.1.14).

Their interval, in seconds, bounds how long a member goes without its stream if its reports were lost. Linux
sends a report of MLDv1 twice within 10 s, without a source while its address is tentative, and OVN ignores
such a report (ipv6_mc_dad_complete in net/ipv6/mcast.c; ``mldv1`` in ovn-sb(5)). A restarted ovn-controller
knows no members. OVN's default is 150 s.
"""


def columns(ids: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return columns of the logical switch of a network that *ids* describe (ovn-nb(5), "IP Multicast").

    OVN itself sends the queries: without them it would forget every member after 300 s. IGMP queries come
    from the gateway's address, which no container has: the kernel's reverse path filter may drop a packet
    whose source is outside of the subnet.
    """
    if ids.get(MULTICAST) != "snoop":
        return {}
    gateway = {"mcast_ip4_src": ids["gateway_ip"]} if "gateway_ip" in ids else {}
    return {"other_config": {"mcast_snoop": "true", **_QUERIER, **gateway}}
