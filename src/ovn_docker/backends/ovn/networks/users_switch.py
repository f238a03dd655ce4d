"""The user's own logical switch, to which ``-o ovn.switch`` attaches a network."""

import contextlib
from collections.abc import Iterable
from ipaddress import ip_network

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OtherSubnets, SubnetThere, SwitchNotUnique
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, OperationError, Row, is_row
from ovn_docker.model import Subnet


def users_switch(database: Database, wanted: str, subnets: Iterable[Subnet], deadline: Deadline) -> str:
    """Return the UUID of the user's logical switch, by its name or UUID.

    Raises SwitchNotUnique, or OtherSubnets if it has others than *subnets*.
    """
    columns = ["_uuid", "name", "external_ids", "other_config"]
    (rows,) = database.transact(
        ovsdb.select("Logical_Switch", ["name", "==", wanted], columns=columns), deadline=deadline
    )
    if not rows:
        with contextlib.suppress(OperationError):  # it is not a UUID either
            (rows,) = database.transact(
                ovsdb.select("Logical_Switch", is_row(wanted), columns=columns), deadline=deadline
            )
    if len(rows) != 1:
        raise SwitchNotUnique(wanted, len(rows))
    for subnet in subnets:
        theirs = _subnet_of(rows[0], subnet.pool.version)
        if theirs and theirs != str(subnet.pool):
            text = f"logical switch {wanted} has the subnet {theirs}, asked for was {subnet.pool}"
            raise OtherSubnets(text, [(SubnetThere(theirs, ""),)])
    return str(rows[0].uuid)


def _subnet_of(switch: Row, version: int) -> str:
    """Return the subnet of a switch: written by us, or for OVN's own address management; or ""."""
    if version == 6:
        return str(switch.map("external_ids").get("subnet6", ""))
    subnet = switch.map("external_ids").get("subnet") or switch.map("other_config").get("subnet", "")
    with contextlib.suppress(ValueError):
        return str(ip_network(subnet))
    return ""
