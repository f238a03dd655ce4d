"""The table of distributions: which row a machine gets, and the commands that messages name."""

import pytest

from ovn_docker.host.distribution import (
    DEBIAN,
    DISTRIBUTIONS,
    FEDORA,
    OTHER,
    SUSE,
    Distribution,
    recognise,
)

RELEASES = {
    "Debian 12": ("debian", "", DEBIAN),
    "Ubuntu 24.04": ("ubuntu", "debian", DEBIAN),
    "Linux Mint 22": ("linuxmint", "ubuntu debian", DEBIAN),
    "Fedora 42": ("fedora", "", FEDORA),
    "RHEL 9": ("rhel", "fedora", FEDORA),
    "CentOS Stream 9": ("centos", "rhel fedora", FEDORA),
    "Rocky Linux 9": ("rocky", "rhel centos fedora", FEDORA),
    "AlmaLinux 9": ("almalinux", "rhel centos fedora", FEDORA),
    "openSUSE Tumbleweed": ("opensuse-tumbleweed", "opensuse suse", SUSE),
    "openSUSE Leap 15": ("opensuse-leap", "suse opensuse", SUSE),
    "SLES 15": ("sles", "suse", SUSE),
    "Arch Linux": ("arch", "", OTHER),
    "Alpine": ("alpine", "", OTHER),
}


@pytest.mark.parametrize(("name", "like", "expected"), RELEASES.values(), ids=RELEASES)
def test_each_release_gets_its_row(name: str, like: str, expected: Distribution) -> None:
    assert recognise({"ID": name, "ID_LIKE": like}) is expected


def test_release_without_names_gets_the_row_of_others() -> None:
    assert recognise({}) is OTHER


def test_a_name_belongs_to_one_row() -> None:
    names = [name for known in DISTRIBUTIONS for name in known.ids]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("known", "program", "cure"),
    [
        (DEBIAN, "ovs-vsctl", "run `apt install openvswitch-switch`"),
        (DEBIAN, "/usr/share/ovn/scripts/ovn-ctl", "run `apt install ovn-host`"),
        (DEBIAN, "ovn-northd", "run `apt install ovn-central`"),
        (DEBIAN, "ip", "run `apt install iproute2`"),
        (DEBIAN, "ssh", "run `apt install openssh-client`"),
        (DEBIAN, "tcpdump", "run `apt install tcpdump`"),
        (FEDORA, "ovs-vsctl", "run `dnf install openvswitch`"),
        (FEDORA, "/usr/sbin/ip", "run `dnf install iproute`"),
        (FEDORA, "ssh", "run `dnf install openssh-clients`"),
        (SUSE, "ovn-controller", "run `zypper install ovn-host`"),
        (SUSE, "ip", "run `zypper install iproute2`"),
        (OTHER, "nft", "install it; Fedora has it in the package nftables"),
    ],
)
def test_cure_names_the_package_of_a_program(known: Distribution, program: str, cure: str) -> None:
    assert known.cure(program) == cure


def test_installation_asks_nothing() -> None:
    assert [known.installation("nftables") for known in (*DISTRIBUTIONS, OTHER)] == [
        (("apt", "install", "--yes", "nftables"),),
        (("dnf", "install", "--assumeyes", "nftables"),),
        (("zypper", "install", "--no-confirm", "nftables"),),
        (),
    ]
