"""Rows read with ovs-vsctl, ovn-nbctl and ovn-sbctl, where set-up needs no connection of its own."""

import json
from collections.abc import Sequence

from ovn_docker.host.ovsdb import Row, decode
from ovn_docker.host.run import run

_SECONDS = 10
"""Time limit of the database's answer in seconds."""


def rows(table: str, *columns: str, tool: Sequence[str] = ("ovs-vsctl",)) -> list[Row]:
    """Return *columns* of all rows of a table, as *tool* lists them. Raises as run() does."""
    command = (*tool, "--format=json", f"--timeout={_SECONDS}", f"--columns={','.join(columns)}")
    reply = json.loads(run((*command, "list", table)))
    headings = reply["headings"]
    return [
        Row(table, {heading: decode(value) for heading, value in zip(headings, values, strict=True)})
        for values in reply["data"]
    ]
