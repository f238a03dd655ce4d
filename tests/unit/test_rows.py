"""The table of row kinds, and rows with forged values."""

import pytest

from ovn_docker.backends.ovn import rows
from ovn_docker.backends.ovn.rows import (
    CLAIMS,
    ENDPOINT,
    ENDPOINTS,
    IDENTITY,
    INFRASTRUCTURE,
    KINDS,
    NAME_CLAIMS,
    OURS,
    POOL,
    POOLS,
    RANK,
    RESOLVER_PORTS,
    STATE,
    SUBNET,
    SWITCH,
    TYPE,
    RowKind,
    is_infrastructure,
    kind_of,
    resolver_port,
)
from ovn_docker.model import row_uuid

SWITCH1 = row_uuid("network", "1")


def test_kinds_have_names_of_their_own_and_known_tables() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.table for kind in KINDS} == set(IDENTITY)


def test_every_kind_of_the_module_is_in_the_table() -> None:
    defined = {value for value in vars(rows).values() if isinstance(value, RowKind)}
    assert defined == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_new_row_is_recognised_by_its_type_and_without_it(kind: RowKind) -> None:
    ids = kind.ids(dict.fromkeys(kind.keys, "x"))
    assert kind_of(kind.table, {"external_ids": ids}) is kind
    del ids[TYPE]
    assert kind_of(kind.table, {"external_ids": ids}) is kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("said", ["", "nonsense", *(kind.name for kind in KINDS)])
def test_a_row_with_a_wrong_type_has_no_kind(kind: RowKind, said: str) -> None:
    ids = kind.ids(dict.fromkeys(kind.keys, "x")) | {TYPE: said}
    found = kind_of(kind.table, {"external_ids": ids})
    assert found is None or (found.name == said and found.matches(ids))


def test_foreign_row_has_no_kind() -> None:
    for owner in ({}, {"ovn-docker:owner": "somebody"}):
        assert kind_of("DHCP_Options", {"external_ids": {**owner, ENDPOINT: "e", TYPE: "claim"}}) is None


def test_a_row_that_fits_several_kinds_has_the_kind_with_most_keys() -> None:
    claim = {**OURS, ENDPOINT: "e", RANK: "own 1"}
    assert kind_of("DHCP_Options", {"external_ids": claim}) is NAME_CLAIMS
    assert kind_of("DHCP_Options", {"external_ids": claim | {TYPE: CLAIMS.name}}) is CLAIMS
    pool = {**OURS, POOL: "p", SUBNET: "10.0.0.0/8", STATE: "free"}
    assert kind_of("DHCP_Options", {"external_ids": pool}) is POOLS


class TestInfrastructure:
    """Ports of a logical switch that are not endpoints."""

    def port(self, kind: str, uuid: str = "", **ids: str) -> dict[str, object]:
        """Return a row of a port; *kind*: OVN's type of the port."""
        return {"_uuid": uuid, "name": "p", "type": kind, "external_ids": {**OURS, SWITCH: SWITCH1, **ids}}

    def test_a_resolvers_port_is_infrastructure_with_and_without_the_mark(self) -> None:
        assert INFRASTRUCTURE.items() <= RESOLVER_PORTS.ids().items()
        assert is_infrastructure(self.port("router", resolver_port(SWITCH1)))
        assert not is_infrastructure(self.port("router", row_uuid("other")))

    def test_a_marked_port_is_infrastructure_of_any_type(self) -> None:
        for kind in ("router", "localnet", "a later type"):
            assert is_infrastructure(self.port(kind, **INFRASTRUCTURE))

    def test_endpoints_port_with_forged_keys_is_not_infrastructure(self) -> None:
        ids = ENDPOINTS.ids({ENDPOINT: "e"})
        for more in (INFRASTRUCTURE, {TYPE: RESOLVER_PORTS.name}):
            assert not is_infrastructure(self.port("", resolver_port(SWITCH1), **{**ids, **more}))

    def test_foreign_port_is_not_infrastructure(self) -> None:
        port = self.port("localnet", **INFRASTRUCTURE)
        assert not is_infrastructure({**port, "external_ids": INFRASTRUCTURE})
