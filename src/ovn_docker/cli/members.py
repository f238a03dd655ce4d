"""OVN's databases as clusters of several machines (RAFT, ovsdb(7), "Clustered Database Service Model").

A machine is a member because its database files say so; what its daemons need besides (addresses, TLS) is in
Debian's own file of options (`defaults`), so that they start as well without us.

ovn-northd reaches the southbound database over this machine's Unix socket only, and so works where the leader
is. Over the network the access control of hosts' certificates would hold it back, and a second port without
would be open to every host.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ovn_docker.cli import defaults, pki
from ovn_docker.cli.arguments import TlsFiles, in_url, own_addresses
from ovn_docker.cli.databases import DATABASES, NORTHBOUND, SOUTHBOUND, Database
from ovn_docker.cli.output import say
from ovn_docker.cli.steps import Steps, rows, run
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.model import IpAddress, Tls

_JOIN_TIME = 40.0
"""Seconds to become a member; ovn-ctl(8) itself waits 30."""

_ABSENT = 10_000
"""Milliseconds of a member's silence after which it is taken to be down; it speaks twice a second."""

_ASK_TIME = 3.0
"""Seconds that each other machine has to say whether it is a member."""

_OPTIONS = re.compile(r"--(db-[ns]b-cluster-.+|ovn-northd-(ssl-.+|nb-db))")
"""The names of `Cluster.options`."""


@dataclass(frozen=True)
class Cluster:
    """The machines of a cluster as this one sees them."""

    me: IpAddress
    others: tuple[IpAddress, ...]
    tls: TlsFiles

    def peer(self, database: Database, address: IpAddress) -> str:
        """Where a member speaks with the others."""
        return f"ssl:{in_url(address)}:{database.peer_port}"

    def target(self, database: Database) -> str:
        """How every member listens: where access control is on, one row says it for all."""
        return f"pssl:{database.port}{':[::]' if self.me.version == 6 else ''}"

    def options(self) -> dict[str, str]:
        """What the daemons of this machine are started with (ovn-ctl(8)).

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
class Server:
    """A member of a cluster, as another one or itself knows it."""

    sid: str
    address: str
    me: bool
    heard: int | None
    """Milliseconds since its last word, if the one who tells has any."""
    match: int | None
    """The last entry of the log that it has, if the leader tells."""


@dataclass(frozen=True)
class Membership:
    """What a member says of its cluster (``cluster/status``, ovsdb-server(1))."""

    status: str
    role: str
    leader: str
    """Its server ID, ``self`` or ``unknown``."""
    term: str
    last: int
    """The last entry of its log."""
    behind: int
    """Entries that it has not yet committed or not yet applied."""
    servers: tuple[Server, ...]

    @property
    def joined(self) -> bool:
        """Whether it takes part, and knows who leads."""
        return self.status == "cluster member" and self.leader not in ("", "unknown")

    @property
    def healthy(self) -> bool:
        """Whether all members are there, as far as this one knows: the leader knows it of all."""
        absent = [one for one in self.servers if not one.me and not self._present(one)]
        return self.joined and not absent

    def about(self, server: Server) -> tuple[str, str, str]:
        """Role, when it was heard from, and how many entries it is behind; ``-`` for what is not known."""
        leads = self.leader == ("self" if server.me else server.sid)
        role = "leader" if leads else self.role if server.me else "follower"
        heard = "this machine" if server.me else "-"
        if server.heard is not None:
            heard = f"{server.heard / 1000:.1f} s ago"
        elif self.role == "leader" and not server.me:
            heard = "never"
        behind = "-" if server.match is None else str(max(0, self.last - server.match))
        return role, heard, str(self.behind) if server.me else behind

    def _present(self, server: Server) -> bool:
        if self.role != "leader":
            return True
        return server.heard is not None and server.heard < _ABSENT


def plan(addresses: Sequence[IpAddress], files: TlsFiles | None) -> Cluster:
    """The cluster that ``--cluster`` and ``--tls`` mean.

    Raises:
        BadRequest: not exactly one of the addresses is this machine's, or there is no TLS.

    """
    own = own_addresses()
    mine = [ip for ip in addresses if str(ip) in own]
    if len(mine) != 1 or len(set(addresses)) != len(addresses):
        raise BadRequest(
            f"--cluster {','.join(map(str, addresses))}: give one address of each member, one of them this "
            f"host's, which has {', '.join(own) or 'none'}"
        )
    if files is None:
        raise BadRequest(
            "a cluster needs TLS, for whoever reaches its ports can change all of it; give --tls DIRECTORY, "
            f"which `ovn-docker pki central NAME --address {mine[0]}` makes"
        )
    if any(" " in file or '"' in file for file in files):
        raise BadRequest(f"{files.private_key}: ovn-ctl takes no path with spaces; move the files")
    if (holder := pki.holder(files.certificate)) and str(mine[0]) not in holder.addresses:
        say(
            f"warning: {files.certificate} does not have the address {mine[0]}, so the drivers of the hosts "
            f"refuse this machine; `ovn-docker pki central NAME --address {mine[0]}` makes one that has it",
            file=sys.stderr,
        )
    return Cluster(mine[0], tuple(ip for ip in addresses if ip != mine[0]), files)


def check(cluster: Cluster, *, create: bool) -> None:
    """Looks whether this machine can be made a member; changes nothing.

    Raises:
        Conflict: it would be a member of two clusters, have two addresses, or lose its networks.
        Unavailable: there is nobody to join.

    """
    for database in DATABASES:
        if database.clustered():
            _check_address(database, cluster)
            continue
        found = _members(cluster, database)
        if create and found:
            raise Conflict(f"{next(iter(found))} has a cluster already; leave --create out to join it")
        if not create:
            _check_joinable(database, cluster, found)


def is_member() -> bool:
    """Whether this machine's files of both databases are those of a member."""
    return all(database.clustered() for database in DATABASES)


def prepare(steps: Steps, cluster: Cluster, *, create: bool) -> None:
    """Makes the files of this machine those of a member; the daemons do not run."""
    for database in DATABASES:
        if not database.clustered():
            (_create if create else _join)(steps, database, cluster)


def settle(steps: Steps, cluster: Cluster) -> None:
    """Waits until this machine takes part, and removes the member that it was before it lost its disk.

    Raises:
        TimedOut: there is no leader, or nobody reaches us.

    """
    for database in DATABASES:
        _settle(steps, cluster, database)


def _settle(steps: Steps, cluster: Cluster, database: Database) -> None:
    steps.wait(
        f"membership in the cluster of the {database.title}",
        lambda: joined(database),
        seconds=_JOIN_TIME,
        hint="more than half of the members have to be up, and to reach each other at TCP ports 6643 and "
        f"6644; see `ovn-docker central status` and {database.log}",
    )
    if steps.dry_run and not database.pid():
        return
    if not rows(*database.tool, "--timeout=10", "--columns=_uuid", "list", database.root):
        steps.change(f"initialize the {database.title}", *database.tool, "init")
    for server in _former_selves(database, cluster):
        steps.change(
            f"remove what this machine was in the cluster of the {database.title} before",
            *("ovs-appctl", "-T", "10", "-t", database.control_socket),
            *("cluster/kick", database.schema, server.sid),
        )
    steps.wait(
        "that removal",
        lambda: not _former_selves(database, cluster),
        seconds=_JOIN_TIME,
        hint="more than half of the members have to be up",
    )


def joined(database: Database) -> bool:
    """Whether this machine's server takes part in a cluster that has a leader."""
    found = membership(database)
    return found is not None and found.joined


def membership(database: Database) -> Membership | None:
    """What this machine's server says of its cluster; None if it does not run or is in none."""
    command = ("ovs-appctl", "-T", "2", "-t", database.control_socket, "cluster/status")
    try:
        return parse_status(run((*command, database.schema)))
    except OvnDockerError:
        return None


def parse_status(said: str) -> Membership:
    """The answer to ``cluster/status``.

    Raises:
        Unavailable: it is none.

    """
    facts = dict(re.findall(r"(?m)^([A-Z][^:\n]*): (.*)$", said))
    try:
        return Membership(
            status=facts["Status"],
            role=facts["Role"],
            leader=facts["Leader"],
            term=facts["Term"],
            last=int(re.findall("[0-9]+", facts["Log"])[-1]) - 1,
            behind=max(int(facts["Entries not yet committed"]), int(facts["Entries not yet applied"])),
            servers=tuple(map(_server, re.findall(r"(?m)^ +[0-9a-f]{4} \(.*$", said))),
        )
    except (KeyError, ValueError, IndexError):
        raise Unavailable(f"cannot read what a database server says of its cluster: {said[:200]!r}") from None


def _server(line: str) -> Server:
    """One of the indented lines at the end."""
    found = re.match(r" +([0-9a-f]{4}) \([0-9a-f]{4} at ([^)]*)\)(.*)", line)
    if not found:
        raise ValueError(line)
    heard, match = re.search(r"last msg (\d+) ms", found[3]), re.search(r"match_index=(\d+)", found[3])
    return Server(
        sid=found[1],
        address=found[2],
        me="(self)" in found[3],
        heard=int(heard[1]) if heard else None,
        match=int(match[1]) if match else None,
    )


def options() -> dict[str, str]:
    """The options of ovn-ctl(8) that make this machine's daemons those of a member."""
    given = defaults.options(defaults.configured())
    return {name: value for name, value in given.items() if _OPTIONS.fullmatch(name)}


def target(database: Database) -> str:
    """How a database of this machine, which is a member, listens if nothing says it."""
    address = options().get(f"--db-{database.short}-cluster-local-addr", "")
    return f"pssl:{database.port}{':[::]' if address.startswith('[') else ''}"


def restrict(addresses: Sequence[IpAddress], files: TlsFiles) -> bool:
    """Whether the southbound database of a machine that answers has access control, as a row says."""
    asked = ovsdb.select("Connection", columns=["role"])
    answers = _ask(addresses, files, SOUTHBOUND, SOUTHBOUND.schema, asked)
    return any(row["role"] for _, rows in answers for row in rows)


def _check_address(database: Database, cluster: Cluster) -> None:
    """Raises Conflict if it is a member at another address: that of a member cannot change."""
    now = run(("ovsdb-tool", "db-local-address", str(database.file))).strip()
    if now != cluster.peer(database, cluster.me):
        raise Conflict(
            f"this machine is a member of the {database.title} as {now}; to give it another address, stop "
            f"it, move {database.file} away, and join again"
        )


def _members(cluster: Cluster, database: Database) -> dict[IpAddress, str]:
    """The other machines that are members already, and the ID of their cluster."""
    asked = ovsdb.select("Database", ["name", "==", database.schema], columns=["model", "cid"])
    return {
        ip: str(row["cid"])
        for ip, rows in _ask(cluster.others, cluster.tls, database, "_Server", asked)
        for row in rows
        if row["model"] == "clustered" and row["cid"]
    }


def _ask(
    addresses: Sequence[IpAddress], files: TlsFiles, database: Database, schema: str, asked: dict[str, Any]
) -> Iterator[tuple[IpAddress, list[ovsdb.Row]]]:
    """Rows of the servers that answer at a database's port, each with its address."""
    tls = Tls(*files, names=False)  # as members know each other too
    for ip in addresses:
        connection = ovsdb.Database(schema, [f"ssl:{in_url(ip)}:{database.port}"], tls=tls)
        try:
            (said,) = connection.transact(asked, deadline=Deadline(_ASK_TIME))
        except OvnDockerError:
            continue
        finally:
            connection.close()
        yield ip, said


def _check_joinable(database: Database, cluster: Cluster, found: dict[IpAddress, str]) -> None:
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


def _create(steps: Steps, database: Database, cluster: Cluster) -> None:
    """A cluster of one, with the contents of this machine's own database if it has one."""
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


def _join(steps: Steps, database: Database, cluster: Cluster) -> None:
    """A member that knows nothing yet but whom to ask."""
    found = _members(cluster, database)
    if database.file.exists():
        _keep(steps, database, "mv")
    steps.change(
        f"join the cluster of the {database.title}",
        *("ovsdb-tool", f"--cid={next(iter(found.values()))}", "join-cluster", str(database.file)),
        *(database.schema, cluster.peer(database, cluster.me)),
        *(cluster.peer(database, ip) for ip in cluster.others),
    )


def _keep(steps: Steps, database: Database, *how: str) -> None:
    kept = database.file.with_suffix(".standalone")
    steps.change(f"keep the {database.title} as it was in {kept}", *how, str(database.file), str(kept))


def _former_selves(database: Database, cluster: Cluster) -> list[Server]:
    """Members with our address that are not us: a lost disk's."""
    found = membership(database)
    mine = cluster.peer(database, cluster.me)
    return [one for one in found.servers if one.address == mine and not one.me] if found else []
