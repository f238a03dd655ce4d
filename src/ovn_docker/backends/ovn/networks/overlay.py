"""The overlay mode's backend: networks as logical switches, endpoints as ports, in OVN's northbound database.

Tables and columns: ovn-nb(5). Why a claim of an address is a row: docs/architecture.md.
"""

import logging
from collections.abc import Callable, Mapping

from ovn_docker.backends.ovn import acls, allowed_claims, port_groups
from ovn_docker.backends.ovn.networks.logical_ports import create_port, delete_port, ports_of_host
from ovn_docker.backends.ovn.networks.network_rows import network_in, read_network, select_network
from ovn_docker.backends.ovn.networks.pools import bind, picked
from ovn_docker.backends.ovn.networks.users_switch import users_switch
from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.records import make_switch, network_ids, network_record
from ovn_docker.backends.ovn.rows import (
    ENCAP,
    HOST,
    IS_ENDPOINT,
    KEPT,
    NAME,
    NETWORK,
    NETWORKS,
    NOTES,
    OURS,
    STATE,
    SWITCH,
    TYPE,
    delete_where,
    host_ids,
    lease_row,
    note_row,
)
from ovn_docker.backends.ovn.shared import container_names, membership
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import Conflict, NotFound, OtherSharedSubnets
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import CREATED, UPTIME, made_now
from ovn_docker.host.ovsdb import ConditionFailed, Database, DuplicateRow, Operation, Reference, has, is_row
from ovn_docker.model import (
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    StoredEndpoint,
    row_uuid,
)

log = logging.getLogger(__name__)


class Overlay:
    """The overlay mode's backend; called with a chassis, as that host sees it.

    *everywhere*: returns True if Docker's networks are the same on all hosts (scope ``global``), so that they
    belong to no single host; *followed*: returns True if a shared network, by its name, is made here only
    because another host has it; *mirrors*: True if this host makes the networks of other hosts.
    """

    def __init__(
        self,
        connect: Connect,
        everywhere: Callable[[], bool] = lambda: False,
        followed: Callable[[str], bool] = lambda _: False,
        *,
        mirrors: bool = False,
    ) -> None:
        self._connect = connect
        self.mirrors = mirrors
        self.everywhere = everywhere
        self.followed = followed

    def __call__(self, chassis: Chassis) -> "HostNetworks":
        """Return the backend of a host. Raises BadRequest for unusable settings of the database."""
        return HostNetworks(self._connect(chassis), chassis, self)


class HostNetworks:
    """Networks and endpoints of one host. Each method is idempotent and writes in a single transaction."""

    def __init__(self, database: Database, chassis: Chassis, mode: Overlay) -> None:
        self._database = database
        self._chassis = chassis
        self._mode = mode

    def create_network(self, network: Network, deadline: Deadline, *, kept: bool = False) -> str:
        """Make the network's logical switch, or a note on the one that ``-o ovn.switch`` names.

        Returns the record of its rows. *kept*: a manager of a swarm makes the network; only delete_network()
        with *kept* deletes it.
        Raises BadRequest without that switch, Conflict if it or the network exists with other subnets.
        """
        while True:
            try:
                row, switch, operations = self._making(network, deadline, kept=kept)
            except OtherSharedSubnets as error:
                asked = error.replaceable
                if not (
                    self._mode.mirrors and picked(self._database, network, asked, self._chassis, deadline)
                ):
                    raise
                # Docker cannot take another subnet now: core/follower.py replaces the network in a moment.
                membership.give_way(self._database, network.options.name or "", self._chassis, deadline)
                return ""
            binding, pools = bind(self._database, network, switch, self._chassis, deadline)
            try:
                self._database.transact(*operations, *binding, deadline=deadline)
            except ConditionFailed:
                continue  # rows that were read have changed: the shared switch is gone, the pool is bound
            except DuplicateRow as error:
                refused = operations[error.index]
                if refused["table"] == "ACL":
                    acls.detach(self._database, switch, refused["uuid"], deadline)
                if refused["uuid"] != row:
                    continue  # another host has just made the shared switch: join it
                self._check_same_network(network, refused, deadline)
            return network_record(network, pools).text

    def _making(
        self, network: Network, deadline: Deadline, *, kept: bool
    ) -> tuple[str, str, list[Operation]]:
        """Return the UUIDs of the network's own row and of its switch, and operations that make both."""
        ids = network_ids(network)
        if kept:
            ids[KEPT] = "true"
        elif not self._mode.everywhere():
            ids |= {**host_ids(self._chassis), **made_now()}
        if network.options.switch is None and network.options.name is None:
            row = row_uuid("network", network.id)
            return row, row, make_switch(NETWORKS, row, network.id, ids)
        row = note_row(network.id)
        operations: list[Operation] = []
        if network.options.name is not None:
            switch = switch_row(network.options.name)
            of_host = {NETWORK, HOST, ENCAP, CREATED, UPTIME}
            description = {key: value for key, value in ids.items() if key not in of_host}
            description[NAME] = network.options.name
            operations, incarnation = membership.join(
                *(self._database, network, description, self._chassis, deadline),
                followed=self._mode.followed(network.options.name),
            )
            ids |= membership.note_ids(network.options.name, switch, incarnation, self._chassis)
        else:
            switch = ids[SWITCH] = users_switch(
                self._database, network.options.switch or "", network.subnets, deadline
            )
        note = NOTES.insert(row, ids, cidr=ids.get("subnet", ""))
        return row, switch, [*operations, note]

    def _check_same_network(self, network: Network, wanted: Operation, deadline: Deadline) -> None:
        """Raise Conflict unless the network in the database is the one that was asked for."""
        there = read_network(self._database, network.id, deadline).ids
        for key, value in ovsdb.decode(wanted["row"]["external_ids"]).items():
            unknown = KEPT in there and key not in there  # to a manager of a swarm: --internal, IPv6
            may_differ = {KEPT, HOST, ENCAP, CREATED, UPTIME, TYPE, *membership.OF_INCARNATION}
            if key not in may_differ and not unknown and there.get(key) != value:
                undo = "ls-del" if wanted["table"] == "Logical_Switch" else "dhcp-options-del"
                raise Conflict(
                    f"network {network.id[:12]} is in the northbound database with "
                    f"{key}={there.get(key)!r}, asked for was {value!r}; "
                    f"delete it with: ovn-nbctl {undo} {wanted['uuid']}"
                )

    def delete_network(self, network: NetworkId, deadline: Deadline, *, kept: bool = False) -> None:
        """Delete the network and what is left of its endpoints; a switch of the user's stays.

        A shared network is removed from all hosts, unless a container of another host, running or stopped,
        belongs to it, or it was made again meanwhile: then it is removed from this host alone.
        """
        name, removed = self._forget_network(network, deadline, kept=kept, remove=True)
        if removed:
            membership.leave(self._database, name, deadline)
        elif name:
            log.info("network %s stays on hosts with containers that belong to it", name)

    def drop_network(self, network: NetworkId, deadline: Deadline) -> None:
        """Delete the network as delete_network() does, but do not remove a shared one from other hosts.

        Does nothing for a network that is another host's. Raises Conflict if another host has attached to its
        switch, or has containers on it.
        """
        stored = network_in(network, self._database.transact(*select_network(network), deadline=deadline))
        if stored and self._is_other_hosts(stored.ids):
            return
        row = row_uuid("network", network)
        others = ["external_ids", "excludes", ovsdb.encode({NETWORK: network})]
        of_switch = has("external_ids", {**OURS, SWITCH: row})
        for rows in self._database.transact(
            ovsdb.select("Logical_Switch_Port", of_switch, IS_ENDPOINT, others, columns=["external_ids"]),
            ovsdb.select("DHCP_Options", of_switch, NOTES.where(), others, columns=["external_ids"]),
            deadline=deadline,
        ):
            for ids in (other.map("external_ids") for other in rows):
                raise Conflict(
                    f"network {network[:12]} stays: host {ids.get(HOST)} has attached to its switch"
                )
        (ports,) = self._database.transact(
            ovsdb.select("Logical_Switch_Port", of_switch, columns=["external_ids"]), deadline=deadline
        )
        for ids in (port.map("external_ids") for port in ports):
            if self._is_other_hosts(ids):
                raise Conflict(f"network {network[:12]} stays: host {ids[HOST]} has containers on it")
        name, _ = self._forget_network(network, deadline)
        if name:
            membership.give_up(self._database, name, deadline)

    def _is_other_hosts(self, ids: Mapping[str, str]) -> bool:
        """Return True if a row with these external_ids is of another host."""
        return HOST in ids and not self._chassis.made(ids[HOST], ids.get(ENCAP, ""))

    def _forget_network(
        self,
        network: NetworkId,
        deadline: Deadline,
        *,
        kept: bool = False,
        remove: bool = False,
    ) -> tuple[str, bool]:
        """Delete all rows of this Docker network alone.

        Returns the name of a shared network, or "", and True if it is now removed from the cluster.

        *remove*: remove a shared network from all hosts if possible. Rows of other hosts stay, unless all
        hosts' Dockers share the network: any host can write any network's ID into a row.
        """
        ours = has("external_ids", {**OURS, NETWORK: network})
        of_both = has("external_ids", {**OURS, NETWORK: network, HOST: self._chassis.system_id})
        note = is_row(note_row(network))
        try:
            stored = read_network(self._database, network, deadline)
        except NotFound:  # after ovn-nbctl ls-del: claims are not deleted with the switch
            self._database.transact(
                *delete_where(NETWORK, of_both),
                ovsdb.delete("DHCP_Options", note, ours),
                deadline=deadline,
            )
            return "", False
        if KEPT in stored.ids and not kept:
            return "", False
        alone = of_both if HOST in stored.ids else ours
        own_switch = stored.switch if stored.switch == row_uuid("network", network) else ""
        released = has("external_ids", {STATE: "released"})
        ports, names, leases = self._database.transact(
            ovsdb.select("Logical_Switch_Port", alone, columns=["_uuid"]),
            ovsdb.select("DNS", alone, columns=["_uuid"]),
            ovsdb.select("DHCP_Options", ours, released, columns=["_uuid", "cidr"]),
            deadline=deadline,
        )
        left = [Reference(port.uuid) for port in ports]
        operations = [
            ovsdb.mutate("Logical_Switch", is_row(stored.switch), mutations=[["ports", "delete", left]]),
            *delete_where(NETWORK, alone),
            ovsdb.delete("DHCP_Options", note, ours),
            *(
                ovsdb.delete(
                    "DHCP_Options", is_row(lease_row(stored.switch, lease.text("cidr"))), ours, released
                )
                for lease in leases
                if lease.uuid == lease_row(stored.switch, lease.text("cidr"))
            ),
            *container_names.delete_names(stored.switch, [row.uuid for row in names]),
            *allowed_claims.delete_all(own_switch),
            *port_groups.delete_all(own_switch),
            *acls.delete_text(own_switch),
            ovsdb.delete("Logical_Switch", is_row(stored.switch), ours),
        ]
        if remove and stored.name:
            for removed, more in (
                (True, membership.removal(stored.name, stored.ids, self._chassis, deadline)),
                (False, membership.departure(stored.name, stored.ids, self._chassis)),
            ):
                try:
                    self._database.transact(*operations, *more, deadline=deadline)
                except (DuplicateRow, ConditionFailed):
                    continue
                return stored.name, removed
        self._database.transact(*operations, deadline=deadline)
        return stored.name, False

    def create_endpoint(self, endpoint: Endpoint, deadline: Deadline) -> Attachment:
        """Make the endpoint's logical switch port and claim its addresses: all or nothing.

        Raises NotFound without the network, AddressInUse if an address or the MAC is taken.
        """
        return create_port(self._database, endpoint, self._chassis, deadline)

    def delete_endpoint(self, endpoint: EndpointId, deadline: Deadline) -> bool:
        """Delete the endpoint's port and release its addresses; return False if claims may be left."""
        return delete_port(self._database, endpoint, deadline)

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Return every endpoint of this host. Searches the whole table: not while Docker waits."""
        return ports_of_host(self._database, self._chassis, deadline)
