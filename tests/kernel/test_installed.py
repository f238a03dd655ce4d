"""The installed package on an ordinary machine: the guide's session, bridges of real interfaces, boots.

The tests run in this order.
"""

from collections.abc import Iterator

import pytest

from kernel.machine import Machine, network_of

ADDRESSES = "docker inspect --format '{{.Name}} {{.NetworkSettings.Networks.ours.IPAddress}}' named picked"

IFUPDOWN = """
grep -q ^source /etc/network/interfaces || echo 'source /etc/network/interfaces.d/*' >>/etc/network/interfaces
printf 'auto eth1\\niface eth1 inet dhcp\\n' >/etc/network/interfaces.d/eth1
ifup eth1
"""

NETWORKD = """
printf '[Match]\\nName=eth2\\n[Network]\\nDHCP=ipv4\\n' >/etc/systemd/network/eth2.network
systemctl enable --now systemd-networkd
"""

NETPLAN = """
mkdir /etc/systemd/system/netplan-ovs-.service.d # netplan's own limit is 10 s
printf '[Service]\\nTimeoutStartSec=300\\n' >/etc/systemd/system/netplan-ovs-.service.d/time.conf
cat >/etc/netplan/eth3.yaml <<'END'
network:
  version: 2
  ethernets:
    eth3:
      addresses: [10.0.5.15/24]
      routes: [{to: default, via: 10.0.5.2, metric: 500}]
END
chmod 600 /etc/netplan/eth3.yaml
netplan apply
"""

UPLINKS = {
    "eth1": (
        IFUPDOWN,
        "--persistent ifupdown --output /etc/network/interfaces.d/breth1",
        "rm /etc/network/interfaces.d/eth1",
    ),
    "eth2": (
        NETWORKD,
        "--persistent systemd-networkd --output /root/breth2.sh",
        "sh /root/breth2.sh; rm /etc/systemd/network/eth2.network",
    ),
    "eth3": (
        NETPLAN,
        "--persistent netplan --output /etc/netplan/90-breth3.yaml",
        "rm /etc/netplan/eth3.yaml",
    ),
}
"""By interface: commands that configure it; how its bridge is made persistent; the rest of that, by hand."""


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Iterator[Machine]:
    """The machine with the installed package, set up as a cluster of one host."""
    machine.run("make install", 1200)
    machine.run("ovn-docker central start --address 127.0.0.1")
    machine.run("ovn-docker host setup --central 127.0.0.1 --encap-ip 127.0.0.1 --encap-type geneve")
    machine.run("ovn-docker host start")
    yield machine
    machine.run("make uninstall")


@pytest.fixture(scope="module")
def restarted(installed: Machine) -> Iterator[Machine]:
    """The machine with containers that Docker starts again at boot, on two networks."""
    machine = installed
    machine.run("docker run -d --name always --restart always --net foo busybox sleep 100000")
    ours = "-d openvswitch --ipam-driver openvswitch --subnet 10.77.0.0/24"
    machine.run(f"docker network create {ours} ours")
    for name in ("named --ip 10.77.0.77", "picked"):
        machine.run(f"docker run -d --restart always --net ours --name {name} busybox sleep 100000")
    yield machine
    machine.run("docker rm -f always busybox busybox2 named picked; docker network rm foo ours")


def address_of(machine: Machine, link: str) -> str:
    """Return the IPv4 addresses of a link."""
    return " ".join(machine.read(f"ip -brief -4 address show dev {link}").split()[2:])


@pytest.mark.quick
def test_guide_works_with_the_installed_package(installed: Machine) -> None:
    installed.run("ovn-docker host status")
    installed.run("demo/session.sh")
    installed.run("ovn-docker doctor")


@pytest.mark.parametrize("link", UPLINKS)
def test_bridge_takes_over_the_interface_of_an_ssh_session(installed: Machine, link: str) -> None:
    machine, bridge = installed, f"br{link}"
    configure, persistent, by_hand = UPLINKS[link]
    machine.run(configure)
    machine.run("true", link=link)
    before = address_of(machine, link)
    assert before.startswith(network_of(link).removesuffix("0/24"))
    move = f"ovn-docker underlay bridge --interface {link} --bridge {bridge}"
    for option, holder in (("", bridge), ("--undo", link), ("", bridge)):
        machine.run(f"{move} {option}", link=link)
        assert address_of(machine, holder) == before
        machine.run("true", link=link)
    machine.run(f"{move} {persistent}")
    machine.run(by_hand)


@pytest.mark.parametrize("how", ["", "--force --force"], ids=["ordered", "power cut"])
def test_containers_are_back_on_their_networks_after_a_boot(restarted: Machine, how: str) -> None:
    machine = restarted
    before = machine.read(ADDRESSES)
    machine.run("sync")
    machine.reboot(600, how)
    machine.run("ovn-docker host status")
    # Docker has not waited for the driver, because the socket existed before.
    assert "Unable to locate plugin" not in machine.read("journalctl --no-pager -b -u docker")
    print(machine.read("systemd-analyze critical-chain --no-pager docker.service"))
    print(machine.read("systemd-analyze blame --no-pager | head -n 15"))
    assert machine.read(ADDRESSES) == before
    machine.run("docker exec picked ping -c 3 10.77.0.77")
    machine.run("docker start busybox; docker exec busybox ping -c 3 always")
    machine.run("ovn-docker doctor")


@pytest.mark.parametrize("link", UPLINKS)
def test_bridge_has_the_interface_after_a_boot(restarted: Machine, link: str) -> None:
    machine = restarted
    assert machine.read(f"ovs-vsctl port-to-br {link}") == f"br{link}\n"
    assert f": {link}\n" in machine.read("ovs-appctl dpctl/show system@ovs-system")
    assert address_of(machine, f"br{link}").startswith(network_of(link).removesuffix("0/24"))
    assert address_of(machine, link) == ""
    machine.run("true", link=link)
