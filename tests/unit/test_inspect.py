"""What `ls` and `inspect` say while a database does not answer: nothing that they do not know."""

from dataclasses import replace

import pytest

from ovn_docker.cli.inspect import endpoint_lines, find, network_lines
from ovn_docker.errors import NotFound
from ovn_docker.view.cluster import Cluster, Network
from unit.clusters import cluster

REASONS = {"northbound": "cannot reach it", "southbound": "nor it"}


def test_what_cannot_be_read_is_not_called_missing() -> None:
    whole = cluster(2, 20)
    seen = Cluster(replace(whole.snapshot, northbound=None, southbound=None, missing=REASONS))
    lines = dict(endpoint_lines(seen, seen.endpoints[0]))
    assert lines["logical port"] == "not known: cannot reach it"
    assert lines["claimed by"] == "not known: nor it"
    assert dict(network_lines(seen, seen.networks[0]))["logical switch"] == "not known"


def test_without_docker_nobody_says_that_docker_does_not_know_it() -> None:
    whole = cluster(1, 20)
    seen = Cluster(replace(whole.snapshot, engine=None, missing={"docker": "it is silent"}))
    assert dict(endpoint_lines(seen, seen.endpoints[0]))["Docker"] == "not known: it is silent"
    assert dict(network_lines(seen, seen.networks[0]))["Docker ID"] == "not known: it is silent"


def test_without_open_vswitch_this_host_has_its_name_and_nobody_speaks_of_its_ports() -> None:
    why = dict.fromkeys(("vswitch", "northbound", "southbound"), "it is silent")
    whole = cluster(1, 20).snapshot
    seen = Cluster(replace(whole, vswitch=None, northbound=None, southbound=None, missing=why))
    endpoint = seen.endpoints[0]
    assert dict(endpoint_lines(seen, endpoint))["container"] == f"{endpoint.container} on {whole.host}"
    assert dict(endpoint_lines(seen, endpoint))["Open vSwitch"] == "not known: it is silent"
    assert {network.hosts for network in seen.networks} == {(whole.host,)}


def test_a_network_that_was_removed_elsewhere_is_not_there_on_every_host() -> None:
    whole = cluster(2, 20).snapshot
    assert whole.northbound
    switches = tuple(
        replace(one, ids={**one.ids, "ovn-docker:removed": "host2"}) for one in whole.northbound.switches
    )
    seen = Cluster(replace(whole, northbound=replace(whole.northbound, switches=switches)))
    (shop,) = find(seen, "shop")
    assert isinstance(shop, Network)
    assert dict(network_lines(seen, shop))["in the cluster"].startswith("removed on host2: ")


def test_a_wrong_name_is_answered_with_containers_and_networks() -> None:
    containers = "there are api, api-1, auth, blog, cache, cache-1, cron, db, ..."
    with pytest.raises(NotFound, match=f"'nosuch' on our networks: {containers}; no such network: .*shop"):
        find(cluster(1, 20), "nosuch")
    for typed, meant in (("wbe", "web"), ("shpo", "shop"), ("autj", "auth")):
        with pytest.raises(NotFound, match=rf"^no network or container '{typed}': did you mean {meant}\?$"):
            find(cluster(1, 20), typed)
    with pytest.raises(NotFound, match="there is none; no such network: there is none"):
        find(Cluster(replace(cluster(1, 0).snapshot, engine=None, northbound=None)), "web")


def test_the_containers_of_this_host_are_counted_without_the_databases_too() -> None:
    whole = cluster(1, 20)
    seen = Cluster(replace(whole.snapshot, northbound=None, southbound=None, missing=REASONS))
    assert sorted(n.endpoints for n in seen.networks) == sorted(n.endpoints for n in whole.networks)
    assert sum(network.endpoints for network in seen.networks) == 20
