"""`ls` and `inspect` while a database does not answer: its rows are unknown, not missing."""

from dataclasses import replace

import pytest

from ovn_docker.errors import NotFound
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.description import description
from ovn_docker.inspect.views import NetworkView
from unit.clusters import cluster

REASONS = {"northbound": "cannot reach it", "southbound": "nor it"}


def test_unreadable_rows_are_unknown() -> None:
    whole = cluster(2, 20)
    seen = ClusterView(replace(whole.snapshot, northbound=None, southbound=None, missing=REASONS))
    lines = dict(description(seen, seen.endpoints[0]))
    assert lines["logical port"] == "unknown: cannot reach it"
    assert lines["claimed by"] == "unknown: nor it"
    assert dict(description(seen, seen.networks[0]))["logical switch"] == "unknown"


def test_docker_part_is_unknown_if_docker_does_not_reply() -> None:
    whole = cluster(1, 20)
    seen = ClusterView(replace(whole.snapshot, engine=None, missing={"docker": "it is silent"}))
    assert dict(description(seen, seen.endpoints[0]))["Docker"] == "unknown: it is silent"
    assert dict(description(seen, seen.networks[0]))["Docker ID"] == "unknown: it is silent"


def test_ports_are_unknown_without_open_vswitch() -> None:
    why = dict.fromkeys(("vswitch", "northbound", "southbound"), "it is silent")
    whole = cluster(1, 20).snapshot
    seen = ClusterView(replace(whole, vswitch=None, northbound=None, southbound=None, missing=why))
    endpoint = seen.endpoints[0]
    assert dict(description(seen, endpoint))["container"] == f"{endpoint.container} on {whole.host}"
    assert dict(description(seen, endpoint))["Open vSwitch"] == "unknown: it is silent"
    assert {network.hosts for network in seen.networks} == {(whole.host,)}


def test_removed_network_names_the_host_that_removed_it() -> None:
    whole = cluster(2, 20).snapshot
    assert whole.northbound
    switches = tuple(
        replace(one, ids={**one.ids, "ovn-docker:removed": "host2"}) for one in whole.northbound.switches
    )
    seen = ClusterView(replace(whole, northbound=replace(whole.northbound, switches=switches)))
    (shop,) = seen.find_any("shop")
    assert isinstance(shop, NetworkView)
    assert dict(description(seen, shop))["in the cluster"].startswith("removed on host2: ")


def test_unknown_name_lists_containers_and_networks() -> None:
    containers = "known containers: api, api-1, auth, blog, cache, cache-1, cron, db, ..."
    with pytest.raises(NotFound, match=f"'nosuch'; {containers}; known networks: .*shop"):
        cluster(1, 20).find_any("nosuch")
    for typed, meant in (("wbe", "web"), ("shpo", "shop"), ("autj", "auth")):
        with pytest.raises(
            NotFound, match=rf"^unknown network or container '{typed}': did you mean {meant}\?$"
        ):
            cluster(1, 20).find_any(typed)
    with pytest.raises(NotFound, match="known containers: none; known networks: none"):
        ClusterView(replace(cluster(1, 0).snapshot, engine=None, northbound=None)).find_any("web")


def test_own_containers_are_counted_without_the_databases() -> None:
    whole = cluster(1, 20)
    seen = ClusterView(replace(whole.snapshot, northbound=None, southbound=None, missing=REASONS))
    assert sorted(n.endpoints for n in seen.networks) == sorted(n.endpoints for n in whole.networks)
    assert sum(network.endpoints for network in seen.networks) == 20
