"""The generation of the shared networks: a token that every change renews and hosts watch."""

from typing import Any
from uuid import uuid4

from ovn_docker.backends.ovn.rows import (
    GENERATION,
    GENERATION_ROW,
    GENERATIONS,
    QUIET_TABLE,
    WATCHED_GENERATIONS,
    WATCHED_ROW,
    insert_quietly,
)
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Operation, is_row

GENERATION_ROWS = {"DHCP_Options": GENERATION_ROW, QUIET_TABLE: WATCHED_ROW}
"""Both rows of the generation, by their tables."""


def generation_rows() -> list[Operation]:
    """Return operations that select the rows of the generation."""
    return [ovsdb.select(table, is_row(row), columns=["_uuid"]) for table, row in GENERATION_ROWS.items()]


def making_generation(found: list[Any]) -> list[Operation]:
    """Return operations that make the rows that generation_rows() has not found."""
    of_options, quiet = found
    return [
        *([] if of_options else [GENERATIONS.insert(GENERATION_ROW, cidr="")]),
        *([] if quiet else insert_quietly(WATCHED_GENERATIONS, WATCHED_ROW, "ovn-docker", {})),
    ]


def announce() -> list[Operation]:
    """Return the operations that have every host compare its networks with those of the cluster again."""
    mutations: list[list[Any]] = [
        ["external_ids", "delete", [GENERATION]],
        ["external_ids", "insert", {GENERATION: str(uuid4())}],
    ]
    return [ovsdb.mutate(table, is_row(row), mutations=mutations) for table, row in GENERATION_ROWS.items()]
