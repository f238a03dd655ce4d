"""Records of the rows that make a network or an endpoint in OVN's northbound database. Pure.

A host keeps them in its own Open_vSwitch database, so that it can make its rows again without trusting what
other hosts may write into the northbound one. Docker's API does not tell all of them: which pool a network
has, or which gateway IPAM chose.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ovn_docker.backends.allowed_claims import is_allowed
from ovn_docker.backends.northbound import ENCAP, HOST
from ovn_docker.host.clock import CREATED, UPTIME
from ovn_docker.host.ovsdb import Operation, decode

_OF_HOST = {HOST, ENCAP, CREATED, UPTIME}
"""Keys of external_ids that are written anew whenever a row is made."""


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network of this host's Docker.

    *ids* describe it; *name*: its name in the cluster, *switch*: the user's logical switch that it is
    attached to, as the option has it; at most one of them. *pools*: external_ids of its pools of our IPAM
    driver by their IDs.
    """

    ids: Mapping[str, str]
    name: str = ""
    switch: str = ""
    pools: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The form in which it is stored."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class PortRecord:
    """An endpoint: the columns of its logical switch port, as JSON has them, and its own claims."""

    columns: Mapping[str, Any]
    ids: Mapping[str, str]
    claims: tuple[str, ...]

    @property
    def text(self) -> str:
        """The form in which it is stored."""
        return json.dumps(asdict(self), sort_keys=True)


def of_port(operations: Iterable[Operation]) -> PortRecord:
    """The record of the endpoint that these operations make."""
    made = [operation for operation in operations if operation["op"] == "insert"]
    (port,) = (one["row"] for one in made if one["table"] == "Logical_Switch_Port")
    claims = tuple(
        one["row"]["cidr"]
        for one in made
        if one["table"] == "DHCP_Options" and not is_allowed(decode(one["row"]["external_ids"]))
    )
    columns = {column: value for column, value in port.items() if column != "external_ids"}
    return PortRecord(columns, lasting(decode(port["external_ids"])), claims)


def lasting(ids: Mapping[str, str]) -> dict[str, str]:
    """Those of a row's external_ids that are the same whenever it is made."""
    return {key: value for key, value in ids.items() if key not in _OF_HOST}


def network(text: str) -> NetworkRecord | None:
    """The record in *text*; ``None`` if there is no valid one."""
    match _parsed(text):
        case {"ids": dict(ids), "name": str(name), "switch": str(switch), "pools": dict(pools)}:
            if _is_strings(ids) and all(isinstance(one, dict) and _is_strings(one) for one in pools.values()):
                return NetworkRecord(ids, name, switch, pools)
    return None


def port(text: str) -> PortRecord | None:
    """The record in *text*; ``None`` if there is no valid one."""
    match _parsed(text):
        case {"columns": dict(columns), "ids": dict(ids), "claims": list(claims)}:
            if _is_strings(ids) and all(isinstance(claim, str) for claim in claims):
                return PortRecord(columns, ids, tuple(claims))
    return None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return None


def _is_strings(pairs: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in pairs.values())
