"""Requests to the databases of other central machines, over TLS: cluster membership and access control."""

from collections.abc import Iterator, Sequence
from typing import Any

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.model import IpAddress, Tls
from ovn_docker.setup.databases import SOUTHBOUND, CentralDatabase
from ovn_docker.setup.own_addresses import in_url
from ovn_docker.setup.tls_files import TlsFiles

_ANSWER_TIME = 3.0
"""Seconds that each machine has to answer."""


def cluster_ids(
    database: CentralDatabase, addresses: Sequence[IpAddress], files: TlsFiles
) -> dict[IpAddress, str]:
    """Return the machines that are members of a cluster of the database, each with the ID of the cluster."""
    question = ovsdb.select("Database", ["name", "==", database.schema], columns=["model", "cid"])
    found = {}
    for ip, rows in _ask(addresses, files, database, "_Server", question):
        for row in rows:
            cluster = row.optional("cid", str)
            if row.text("model") == "clustered" and cluster:
                found[ip] = cluster
    return found


def is_restricted(addresses: Sequence[IpAddress], files: TlsFiles) -> bool:
    """Return whether a machine that answers has access control in the southbound database, by its row."""
    question = ovsdb.select("Connection", columns=["role"])
    answers = _ask(addresses, files, SOUTHBOUND, SOUTHBOUND.schema, question)
    return any(row.text("role") for _, rows in answers for row in rows)


def _ask(
    addresses: Sequence[IpAddress],
    files: TlsFiles,
    database: CentralDatabase,
    schema: str,
    question: dict[str, Any],
) -> Iterator[tuple[IpAddress, list[ovsdb.Row]]]:
    """Yield the rows of each server that answers at the port of *database*, with its address."""
    tls = Tls(*files, names=False)  # members of a cluster do not verify names either
    for ip in addresses:
        connection = ovsdb.Database(schema, [f"ssl:{in_url(ip)}:{database.port}"], tls=tls)
        try:
            (rows,) = connection.transact(question, deadline=Deadline(_ANSWER_TIME))
        except OvnDockerError:
            continue
        finally:
            connection.close()
        yield ip, rows
