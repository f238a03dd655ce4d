"""OVN's databases as clusters of several machines (RAFT, ovsdb(7), "Clustered Database Service Model").

The database files make a machine a member; the other settings of its daemons (addresses, TLS) are in the
distribution's file of options (`ovn_ctl`), so that the daemons start without this program as well.

ovn-northd reaches the southbound database over this machine's Unix socket only, and so is active where the
leader is. Over the network the access control of hosts' certificates would refuse its changes, and a second
port without access control would be open to every host.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.host.run import run
from ovn_docker.host.vsctl import rows
from ovn_docker.model import IpAddress
from ovn_docker.setup.central import ovn_ctl
from ovn_docker.setup.central.remote_databases import cluster_ids
from ovn_docker.setup.certificates import certificate_of
from ovn_docker.setup.databases import DATABASES, NORTHBOUND, CentralDatabase
from ovn_docker.setup.own_addresses import in_url, own_addresses
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TlsFiles

_JOIN_TIME = 40.0
"""Seconds to become a member; ovn-ctl(8) itself waits 30."""

_ABSENT = 10_000
"""Milliseconds of silence after which a member counts as down; it sends a heartbeat twice a second."""

_OPTIONS = re.compile(r"--(db-[ns]b-cluster-.+|ovn-northd-(ssl-.+|nb-db))")
"""The names of the options in `DatabaseCluster.options`."""


@dataclass(frozen=True)
class DatabaseCluster:
    """The machines that keep the databases together, as seen from this machine."""

    me: IpAddress
    others: tuple[IpAddress, ...]
    tls: TlsFiles

    def peer(self, database: CentralDatabase, address: IpAddress) -> str:
        """Return the connection method at which the member with this address is reached by the others."""
        return f"ssl:{in_url(address)}:{database.peer_port}"

    def target(self, database: CentralDatabase) -> str:
        """Return the connection method on which every member listens: with access control one row sets it."""
        return f"pssl:{database.port}{':[::]' if self.me.version == 6 else ''}"

    def options(self) -> dict[str, str]:
        """Return the options with which the daemons of this machine are started (ovn-ctl(8)).

        The address to join is there even where the cluster was made: after the loss of its disk a member has
        to join, never to make another cluster.
        """
        key, certificate, authority = self.tls
        everybody = sorted((self.me, *self.others), key=str)
        options = {
            "--ovn-northd-ssl-key": key,
            "--ovn-northd-ssl-cert": certificate,
            "--ovn-northd-ssl-ca-cert": authority,
            "--ovn-northd-nb-db": ",".join(f"ssl:{in_url(ip)}:{NORTHBOUND.port}" for ip in everybody),
        }
        for database in DATABASES:
            short = database.short
            options |= {
                f"--db-{short}-cluster-local-addr": in_url(self.me),
                f"--db-{short}-cluster-local-proto": "ssl",
            }
            if self.others:
                options |= {
                    f"--db-{short}-cluster-remote-addr": in_url(self.others[0]),
                    f"--db-{short}-cluster-remote-proto": "ssl",
                }
        return options


@dataclass(frozen=True)
class RaftServer:
    """A member of a cluster, in the status of a member."""

    sid: str
    address: str
    me: bool
    heard: int | None
    """Milliseconds since its last message, if the status has them."""
    match: int | None
    """The last entry of the log that it has; only the leader knows."""


@dataclass(frozen=True)
class Membership:
    """The status of a member of a cluster (``cluster/status``, ovsdb-server(1))."""

    status: str
    role: str
    leader: str
    """The server ID of the leader, ``self`` or ``unknown``."""
    term: str
    last: int
    """The last entry of its log."""
    behind: int
    """Entries that it has not yet committed or not yet applied."""
    servers: tuple[RaftServer, ...]

    @property
    def joined(self) -> bool:
        """True if this member takes part in the cluster, and knows the leader."""
        return self.status == "cluster member" and self.leader not in ("", "unknown")

    @property
    def healthy(self) -> bool:
        """True if this member takes part and, as leader, got messages of all others within _ABSENT."""
        return self.joined and all(one.me or self._present(one) for one in self.servers)

    def about(self, server: RaftServer) -> tuple[str, str, str]:
        """Return role, time since the last message, and entries behind, in words; ``-`` if not known."""
        leads = self.leader == ("self" if server.me else server.sid)
        role = "leader" if leads else self.role if server.me else "follower"
        heard = "this machine" if server.me else "-"
        if server.heard is not None:
            heard = f"{server.heard / 1000:.1f} s ago"
        elif self.role == "leader" and not server.me:
            heard = "never"
        behind = "-" if server.match is None else str(max(0, self.last - server.match))
        return role, heard, str(self.behind) if server.me else behind

    def _present(self, server: RaftServer) -> bool:
        if self.role != "leader":
            return True
        return server.heard is not None and server.heard < _ABSENT


def cluster_of(addresses: Sequence[IpAddress], files: TlsFiles | None) -> DatabaseCluster:
    """Return the cluster with members at these addresses, one of which is this machine's.

    Raises:
        BadRequest: not exactly one of the addresses is this machine's, or there is no TLS.

    """
    own = own_addresses()
    here = [ip for ip in addresses if str(ip) in own]
    if len(here) != 1 or len(set(addresses)) != len(addresses):
        raise BadRequest(
            f"--cluster {','.join(map(str, addresses))}: give one address of each member, one of them this "
            f"host's, which has {', '.join(own) or 'none'}"
        )
    if files is None:
        raise BadRequest(
            "a cluster needs TLS, because every machine that reaches its ports can change all of it; give "
            f"--tls DIRECTORY, which `ovn-docker pki central NAME --address {here[0]}` makes"
        )
    if any(" " in file or '"' in file for file in files):
        raise BadRequest(f"{files.private_key}: ovn-ctl takes no path with spaces; move the files")
    return DatabaseCluster(here[0], tuple(ip for ip in addresses if ip != here[0]), files)


def warn_of_certificate_address(steps: Steps, cluster: DatabaseCluster) -> None:
    """Warn if this machine's certificate does not have its address, which the drivers of hosts verify."""
    found = certificate_of(cluster.tls.certificate)
    if found and str(cluster.me) not in found.addresses:
        steps.advise(
            f"warning: {cluster.tls.certificate} does not have the address {cluster.me}, so the drivers of "
            f"hosts refuse this machine; `ovn-docker pki central NAME --address {cluster.me}` makes one that "
            "has it"
        )


def check_membership(cluster: DatabaseCluster, *, create: bool) -> None:
    """Raise an error unless this machine is, or can become, a member; change nothing.

    Raises:
        Conflict: it would be a member of two clusters, have two addresses, or lose its networks.
        Unavailable: no other machine of the cluster answers as a member.

    """
    for database in DATABASES:
        if database.clustered():
            _check_address(database, cluster)
            continue
        found = cluster_ids(database, cluster.others, cluster.tls)
        if create and found:
            raise Conflict(f"{next(iter(found))} has a cluster already; leave --create out to join it")
        if not create:
            _check_joinable(database, cluster, found)


def is_member() -> bool:
    """Return whether this machine's files of both databases are those of a member."""
    return all(database.clustered() for database in DATABASES)


def make_member_files(steps: Steps, cluster: DatabaseCluster, *, create: bool) -> None:
    """Make the database files of this machine those of a member, while the daemons do not run."""
    for database in DATABASES:
        if not database.clustered():
            (_create if create else _join)(steps, database, cluster)


def await_membership(steps: Steps, cluster: DatabaseCluster) -> None:
    """Wait until this machine takes part, and remove the member that it was before it lost its disk.

    Raises:
        TimedOut: there is no leader, or the other members do not reach this machine.

    """
    for database in DATABASES:
        _await_membership(steps, cluster, database)


def joined(database: CentralDatabase) -> bool:
    """Return whether this machine's server takes part in a cluster that has a leader."""
    found = membership(database)
    return found is not None and found.joined


def membership(database: CentralDatabase) -> Membership | None:
    """Return the status of this machine's server in its cluster; ``None`` if it is down or no member."""
    command = ("ovs-appctl", "-T", "2", "-t", database.control_socket, "cluster/status")
    try:
        return parse_status(run((*command, database.schema)))
    except OvnDockerError:
        return None


def parse_status(text: str) -> Membership:
    """Parse the answer to ``cluster/status``.

    Raises:
        Unavailable: it is not a status.

    """
    facts = dict(re.findall(r"(?m)^([A-Z][^:\n]*): (.*)$", text))
    try:
        return Membership(
            status=facts["Status"],
            role=facts["Role"],
            leader=facts["Leader"],
            term=facts["Term"],
            last=int(re.findall("[0-9]+", facts["Log"])[-1]) - 1,
            behind=max(int(facts["Entries not yet committed"]), int(facts["Entries not yet applied"])),
            servers=tuple(map(_parse_server, re.findall(r"(?m)^ +[0-9a-f]{4} \(.*$", text))),
        )
    except (KeyError, ValueError, IndexError):
        raise Unavailable(f"cannot read the cluster status of a database server: {text[:200]!r}") from None


def member_options() -> dict[str, str]:
    """Return the configured options of ovn-ctl(8) that make this machine's daemons those of a member."""
    given = ovn_ctl.options(ovn_ctl.configured())
    return {name: value for name, value in given.items() if _OPTIONS.fullmatch(name)}


def member_target(database: CentralDatabase) -> str:
    """Return the connection method of a database of a member if neither options nor rows have one."""
    address = member_options().get(f"--db-{database.short}-cluster-local-addr", "")
    return f"pssl:{database.port}{':[::]' if address.startswith('[') else ''}"


def _parse_server(line: str) -> RaftServer:
    """Parse one of the indented lines at the end of a status."""
    found = re.match(r" +([0-9a-f]{4}) \([0-9a-f]{4} at ([^)]*)\)(.*)", line)
    if not found:
        raise ValueError(line)
    heard, match = re.search(r"last msg (\d+) ms", found[3]), re.search(r"match_index=(\d+)", found[3])
    return RaftServer(
        sid=found[1],
        address=found[2],
        me="(self)" in found[3],
        heard=int(heard[1]) if heard else None,
        match=int(match[1]) if match else None,
    )


def _await_membership(steps: Steps, cluster: DatabaseCluster, database: CentralDatabase) -> None:
    steps.wait(
        f"membership in the cluster of the {database.title}",
        lambda: joined(database),
        seconds=_JOIN_TIME,
        hint="more than half of the members have to be up, and to reach each other at TCP ports 6643 and "
        f"6644; see `ovn-docker central status` and {database.log}",
    )
    if steps.dry_run and not database.pid():
        return
    if not rows(database.root, "_uuid", tool=database.tool):
        steps.change(f"initialize the {database.title}", *database.tool, "init")
    for server in _former_selves(database, cluster):
        steps.change(
            f"remove the former member of this machine from the cluster of the {database.title}",
            *("ovs-appctl", "-T", "10", "-t", database.control_socket),
            *("cluster/kick", database.schema, server.sid),
        )
    steps.wait(
        "that removal",
        lambda: not _former_selves(database, cluster),
        seconds=_JOIN_TIME,
        hint="more than half of the members have to be up",
    )


def _former_selves(database: CentralDatabase, cluster: DatabaseCluster) -> list[RaftServer]:
    """Return the members with this machine's address that it was before it lost its disk."""
    found = membership(database)
    own = cluster.peer(database, cluster.me)
    return [one for one in found.servers if one.address == own and not one.me] if found else []


def _check_address(database: CentralDatabase, cluster: DatabaseCluster) -> None:
    """Raise Conflict if this machine is a member at another address: a member's address cannot change."""
    now = run(("ovsdb-tool", "db-local-address", str(database.file))).strip()
    if now != cluster.peer(database, cluster.me):
        raise Conflict(
            f"this machine is a member of the {database.title} as {now}; to give it another address, stop "
            f"it, move {database.file} away, and join again"
        )


def _check_joinable(database: CentralDatabase, cluster: DatabaseCluster, found: dict[IpAddress, str]) -> None:
    """Raise an error if this machine cannot join; *found*: the members that answer, with their clusters."""
    others = ", ".join(map(str, cluster.others)) or "nobody"
    if not found:
        raise Unavailable(
            f"nobody to join: {others} {'does' if len(cluster.others) < 2 else 'do'} not answer at TCP port "
            f"{database.port} as a member; start one of them first, or make a new cluster here with --create"
        )
    if len(set(found.values())) > 1:
        raise Conflict(f"{others} are members of different clusters")
    if database is NORTHBOUND and database.file.exists():
        query = '["OVN_Northbound",{"op":"select","table":"Logical_Switch","where":[],"columns":["name"]}]'
        (answer,) = json.loads(run(("ovsdb-tool", "query", str(database.file), query)))
        if answer["rows"]:
            raise Conflict(
                f"this machine has a northbound database of its own, with {len(answer['rows'])} networks; "
                f"make the cluster of it with --create, or move {database.file} away to join without it"
            )


def _create(steps: Steps, database: CentralDatabase, cluster: DatabaseCluster) -> None:
    """Make a cluster of one member, with the contents of this machine's own database if it has one."""
    new = database.file.with_suffix(".new")
    contents = str(database.file) if database.file.exists() else database.schema_file
    if new.exists():  # of a run that was killed
        steps.change(f"remove {new}", "rm", str(new))
    steps.change(
        f"make a cluster of the {database.title}",
        *("ovsdb-tool", "create-cluster", str(new), contents, cluster.peer(database, cluster.me)),
    )
    if database.file.exists():
        _keep(steps, database, "ln", "--force")
    steps.change("put it in place", "mv", str(new), str(database.file))


def _join(steps: Steps, database: CentralDatabase, cluster: DatabaseCluster) -> None:
    """Make a member that has the addresses of the others and no rows yet."""
    found = cluster_ids(database, cluster.others, cluster.tls)
    if database.file.exists():
        _keep(steps, database, "mv")
    steps.change(
        f"join the cluster of the {database.title}",
        *("ovsdb-tool", f"--cid={next(iter(found.values()))}", "join-cluster", str(database.file)),
        *(database.schema, cluster.peer(database, cluster.me)),
        *(cluster.peer(database, ip) for ip in cluster.others),
    )


def _keep(steps: Steps, database: CentralDatabase, *how: str) -> None:
    kept = database.file.with_suffix(".standalone")
    steps.change(f"keep the {database.title} as it was in {kept}", *how, str(database.file), str(kept))
