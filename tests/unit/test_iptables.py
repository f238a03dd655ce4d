"""Docker's rules in the output of iptables-save(8)."""

from ipaddress import ip_address

import pytest

from ovn_docker.trace import iptables

SAVED = """\
*nat
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.18.0.0/16 ! -o docker_gwbridge -j MASQUERADE
-A POSTROUTING -o tun0 -m comment --comment "to the \\"office\\"" -j SNAT --to-source 192.0.2.7
-A POSTROUTING -s 172.18.0.2/32 -d 172.18.0.2/32 -p tcp -m tcp --dport 5432 -j MASQUERADE
-A POSTROUTING ! -s 10.8.0.0/13 -d 8.0.0.0/8 -o eth0 -j MASQUERADE
-A POSTROUTING -m comment --comment broken' -j MASQUERADE
-A DOCKER -i docker_gwbridge -j RETURN
-A DOCKER ! -i docker_gwbridge -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.18.0.2:5432
-A DOCKER -d 192.0.2.1/32 ! -i docker_gwbridge -p udp -m udp --dport 53 -j DNAT --to-destination 172.18.0.3:53
COMMIT
"""
SAVED6 = "-A DOCKER ! -i docker_gwbridge -p tcp --dport 80 -j DNAT --to-destination [fd00::2]:8000\n"


@pytest.mark.parametrize(
    ("source", "out", "rule"),
    [
        ("172.18.0.2", "eth0", "-s 172.18.0.0/16 ! -o docker_gwbridge"),
        ("172.17.0.2", "eth0", "-s 172.17.0.0/16 ! -o docker0"),
        ("10.9.0.2", "tun0", "-o tun0"),
        ("172.18.0.2", "docker_gwbridge", ""),
        ("10.9.0.2", "eth0", ""),
        ("10.7.0.2", "eth0", "! -s 10.8.0.0/13"),
    ],
)
def test_masquerade_rule_is_found(source: str, out: str, rule: str) -> None:
    found = iptables.masquerade(SAVED, ip_address(source), ip_address("8.8.8.8"), out)
    assert rule in found
    assert bool(found) is bool(rule)


def test_rule_of_a_published_port_is_found() -> None:
    at = ip_address("192.0.2.1")
    rule, address, port = iptables.published(SAVED, "tcp", 8080, at)
    assert rule.endswith("--to-destination 172.18.0.2:5432")
    assert (address, port) == ("172.18.0.2", 5432)
    assert iptables.published(SAVED, "tcp", 8080, None)[1:] == ("172.18.0.2", 5432)
    assert iptables.published(SAVED, "udp", 53, at)[1:] == ("172.18.0.3", 53)
    assert iptables.published(SAVED6, "tcp", 80, None)[1:] == ("fd00::2", 8000)
    for protocol, number, where in (("udp", 8080, at), ("tcp", 80, at), ("udp", 53, ip_address("192.0.2.2"))):
        assert iptables.published(SAVED, protocol, number, where) == ("", "", 0)
