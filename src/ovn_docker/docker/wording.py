"""Words errors for the user of Docker: the facts of an error, then the option or command that helps. Pure."""

from collections.abc import Iterable

from ovn_docker import options
from ovn_docker.errors import (
    AddressesExhausted,
    AddressInUse,
    AddressReserved,
    AllowedToAll,
    BeingCreated,
    EndpointNotFound,
    ForeignNetwork,
    NetworkNotFound,
    OtherMtu,
    OtherSettings,
    OtherSharedSubnets,
    OtherSubnets,
    OvnDockerError,
    PoolInvalid,
    PoolNotBound,
    PoolNotFound,
    PoolNotRequested,
    StillRemoved,
    SubnetRefused,
    SubnetsExhausted,
    SubnetThere,
    SwitchNotUnique,
)
from ovn_docker.text.printable import command


def explain(error: OvnDockerError) -> str:
    """Return the message of an error with what to do. Errors without facts say that in their message."""
    cure = _cure(error)
    return f"{error}; {cure}" if cure else str(error)


def _cure(error: OvnDockerError) -> str:
    match error:
        case AddressInUse():
            return _cure_of_address(error)
        case AddressesExhausted(usable=True):
            return "remove containers, or create the network with a larger --subnet or --ip-range"
        case SwitchNotUnique(count=0):
            return f"make it with: {command('ovn-nbctl', 'ls-add', error.switch)}, or leave ovn.switch out"
        case ForeignNetwork():
            return f"attach to it with -o ovn.switch={error.name}, or give ovn.network another name"
        case StillRemoved():
            inspect = command("ovn-docker", "inspect", error.name)
            return f"create it again in a moment, or see which host that is with: {inspect}"
        case OtherMtu():
            return f"create it with -o {options.MTU}={error.mtu}"
        case OtherSharedSubnets():
            wait = command("ovn-docker", "network", "wait", error.name)
            return (
                f"it was chosen if you gave none: wait for it to appear on this host ({wait}), or create it "
                f"as it is there ({_as_options(error.fitting[0])})"
            )
        case OtherSubnets():
            fitting = " or ".join(map(_as_options, error.fitting))
            return f"create the network with {fitting or '--ipam-driver null and without --subnet'}"
    return _CURES.get(type(error), "")


_CURES: dict[type[OvnDockerError], str] = {
    SwitchNotUnique: "give the UUID of one, see: ovn-nbctl ls-list",
    SubnetRefused: "give another --subnet",
    AllowedToAll: "choose another with --ip or --mac-address, or create the network with an --ip-range "
    "without it",
    BeingCreated: "see docker network ls",
    OtherSettings: "create it as it is there, or give it another name",
    PoolInvalid: "remove its network and create it again",
    AddressReserved: "choose another",
    AddressesExhausted: "create the network with a larger --subnet or --ip-range",
    SubnetsExhausted: "give --subnet, or --address-pools",
    PoolNotBound: "--ipam-driver openvswitch is only for networks with -d openvswitch; if the network has "
    "just been created, try again in a second: another host has made it with another subnet",
    PoolNotRequested: "create the network again",
    NetworkNotFound: "it was deleted there or made elsewhere; remove it with docker network rm and create it "
    "again",
    PoolNotFound: "it was deleted there or made elsewhere; remove its network and create it again",
    EndpointNotFound: "start the container again",
}


def _cure_of_address(error: AddressInUse) -> str:
    if error.asked:
        return "leave it out"
    if error.leasing:
        return "choose another with --ip, or leave --ip out"
    if error.allowed:
        return "choose another with --ip or --mac-address"
    return (
        "choose another with --ip or --mac-address, or create the network with --ipam-driver openvswitch, or "
        "with another --ip-range on each host"
    )


def _as_options(subnets: Iterable[SubnetThere]) -> str:
    """Return options of ``docker network create`` that give a network these subnets and gateways."""
    words: list[str] = []
    for subnet, gateway in subnets:
        version = ("--ipv6",) if ":" in subnet else ()
        words += [*version, f"--subnet={subnet}", *([f"--gateway={gateway}"] if gateway else [])]
    return command(*words)
