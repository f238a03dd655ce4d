"""Scenarios of other projects' tests of Docker's network drivers, which run with any driver.

After the network tests of docker-py (tests/integration), moby (integration/network, integration/networking,
integration-cli/docker_cli_network_unix_test.go) and kuryr-libnetwork (tests/fullstack): their subjects, not
their text. Each scenario gets a `Side` and records there the results to compare.
"""

import time
from collections.abc import Callable
from ipaddress import ip_network

from e2e.compat.side import Json, Side, plain
from e2e.lab import wait_for

Scenario = Callable[[Side], None]

SCENARIOS: list[Scenario] = []

FOUR = {"Subnet": "172.28.0.0/16", "IPRange": "172.28.5.0/24", "Gateway": "172.28.5.254"}
SIX = {"Subnet": "2001:db8:1234::/64", "Gateway": "2001:db8:1234::ffff"}
QUICK = {"Dns": ["127.0.0.1"], "DnsOptions": ["timeout:1", "attempts:1"]}
"""A name server that does not exist, so that a name that Docker does not know fails at once."""


def scenario(function: Scenario) -> Scenario:
    """Register a scenario."""
    SCENARIOS.append(function)
    return function


# Networks


@scenario
def networks_are_shown_as_they_were_made(side: Side) -> None:
    more = {"a": "172.28.1.5", "b": "172.28.1.6"}
    label = {"com.example.test": "label"}
    side.network("four", FOUR | {"AuxiliaryAddresses": more}, Labels=label, Internal=True, Attachable=True)
    shown = side.inspect("four")
    side.see("one subnet", plain(shown))
    assert (shown["Driver"], shown["IPAM"]["Driver"]) == (side.driver.name, side.driver.ipam)
    side.network("both", {"Subnet": "172.29.0.0/16"}, SIX, EnableIPv6=True)
    side.see("both families", plain(side.inspect("both")))
    side.network(
        "range",
        {"Subnet": "10.9.0.0/16"},
        {"Subnet": "2001:389::/64", "IPRange": "2001:389::/96"},
        EnableIPv6=True,
    )
    side.see("a range of IPv6", plain(side.inspect("range")))


@scenario
def subnets_are_picked(side: Side) -> None:
    for name in ("one", "two"):
        side.network(name)
    pools = [pool for name in ("one", "two") for pool in side.inspect(name)["IPAM"]["Config"]]
    one, two = (ip_network(pool["Subnet"]) for pool in pools)
    side.see("overlap", one.overlaps(two))
    side.see("prefix length", one.prefixlen)
    side.see("the first address is the gateway's", pools[0].get("Gateway") == str(one[1]))
    side.run("c1", "one")
    side.see("the second one is a container's", side.address("c1", "one") == str(one[2]))
    fixed = {"IPAMConfig": {"IPv4Address": "172.28.9.9"}}
    side.see("a fixed address where no subnet was given", side.attempt("c2", "one", fixed))


@scenario
def networks_are_listed_and_filtered(side: Side) -> None:
    identity = side.network("alpha", Labels={"kind": "first"})
    side.network("beta", Labels={"kind": "second", "other": ""})
    side.run("cc", "beta")

    def listed(**filters: list[str]) -> list[str]:
        return sorted(network["Name"] for network in side.networks(**filters))

    side.see("all", listed())
    side.see("by name", listed(name=["alph"]))
    side.see("by the beginning of an ID", listed(id=[identity[:8]]))
    side.see("by label", listed(label=["kind"]))
    side.see("by value of a label", listed(label=["kind=second"]))
    side.see("by driver", listed(driver=[side.driver.name]))
    side.see("by type", listed(type=["custom"]))
    side.see("by scope", listed(scope=["local"]))
    side.see("unused", listed(dangling=["true"]))
    side.see("used", listed(dangling=["false"]))
    side.see("none such", listed(name=["none-such"]))
    listing = next(network for network in side.networks(name=["beta"]))
    side.see("in the list", plain(listing, "IPAM", "Containers"))


@scenario
def duplicate_names(side: Side) -> None:
    first = side.network("n")
    side.refusal("checked", "POST", "/networks/create", side.wanted("n"))
    side.refusal("unchecked", "POST", "/networks/create", side.wanted("n", CheckDuplicate=False))
    side.see("so many", len(side.networks(name=["n"])))
    side.remove(first)
    side.see("left", len(side.networks(name=["n"])))


@scenario
def names_that_look_like_ids(side: Side) -> None:
    identity = side.network("n")
    like = side.network(identity[:12])
    whole = side.network(identity)
    side.remove(identity[:12])
    assert {network["Id"] for network in side.networks()} == {identity, whole}
    side.remove(identity)
    assert {network["Id"] for network in side.networks()} == {whole}
    assert like != whole


@scenario
def names_with_special_characters(side: Side) -> None:
    for name in ("test@#$", "kiwl%^", "with space", "br.net1", "a" * 100, "-n", "ünï"):
        side.refusal(f"create {name[:20]}", "POST", "/networks/create", side.wanted(name))
    side.see("names", sorted(network["Name"] for network in side.networks()))


@scenario
def networks_are_deleted(side: Side) -> None:
    for name in ("one", "two", "used"):
        side.network(name)
    side.run("cc", "used")
    side.refusal("used", "DELETE", "/networks/used")
    side.stop("cc")
    side.refusal("unused", "DELETE", "/networks/one")
    side.refusal("not there", "DELETE", "/networks/one")
    side.refusal("of a stopped container", "DELETE", "/networks/used")
    side.refusal("to start it then", "POST", "/containers/cc/start")
    side.refusal("to disconnect it", "POST", "/networks/used/disconnect", {"Container": "cc", "Force": True})
    side.see("its networks then", sorted(side.container("cc")["NetworkSettings"]["Networks"]))


@scenario
def unused_networks_are_pruned(side: Side) -> None:
    for name, label in (("keep", "keep"), ("drop", "drop"), ("used", "drop")):
        side.network(name, Labels={label: ""})
    side.run("cc", "used")
    pruned = side.api("POST", "/networks/prune", filters={"label!": ["keep"]})
    side.see("pruned", sorted(set(pruned["NetworksDeleted"]) - {"docker_gwbridge"}))
    side.see("left", sorted(network["Name"] for network in side.networks()))


@scenario
def options_and_settings_by_another_network(side: Side) -> None:
    bridges = {"com.docker.network.bridge.name": "br-x", "com.docker.network.bridge.enable_icc": "true"}
    side.network("n", {"Subnet": "10.20.0.0/24"}, Options=bridges | {"com.docker.network.driver.mtu": "1400"})
    side.see("options", side.inspect("n")["Options"])
    side.run("cc", "n")
    side.see("MTU as asked", "mtu 1400" in side.exec("cc", "ip", "link", "show", "eth0"))
    mtu = {"com.docker.network.driver.mtu": "1300"}
    pools = {"Driver": side.driver.ipam, "Config": [{"Subnet": "10.21.0.0/24"}]}
    side.api(
        "POST",
        "/networks/create",
        {"Name": "config", "ConfigOnly": True, "Options": mtu, "IPAM": pools, "Labels": {"a": "b"}},
    )
    side.api(
        "POST",
        "/networks/create",
        {"Name": "from", "Driver": side.driver.name, "ConfigFrom": {"Network": "config"}},
    )
    side.see("by another network", plain(side.inspect("from")))
    side.run("cd", "from")
    side.see("MTU by another network", "mtu 1300" in side.exec("cd", "ip", "link", "show", "eth0"))
    side.api("DELETE", "/containers/cd", force=1)
    side.refusal("the other network is in use", "DELETE", "/networks/config")
    side.remove("from")


# Containers


@scenario
def a_container_is_connected_and_disconnected(side: Side) -> None:
    network = side.network("n", {"Subnet": "10.20.0.0/24"})
    side.network("other", {"Subnet": "10.21.0.0/24"})
    container = side.run("cc", "other")
    side.see("nobody", side.inspect("n")["Containers"])
    side.connect("n", "cc")
    side.see("connected", plain(side.inspect("n")["Containers"], "MacAddress"))
    side.see("its endpoint", plain(side.endpoint("cc", "n"), "MacAddress", "Gateway"))
    side.see("its gateway", side.endpoint("cc", "n")["Gateway"])
    before = side.endpoint("cc", "n")
    side.refusal("again", "POST", "/networks/n/connect", {"Container": "cc"})
    assert side.endpoint("cc", "n") == before
    side.api("POST", "/containers/cc/rename", name="renamed")
    side.see("renamed", [c["Name"] for c in side.inspect("n")["Containers"].values()])
    side.see(
        "interface", side.exec("renamed", "ip", "-family", "inet", "-oneline", "address").count("10.20.0.")
    )
    side.disconnect(network, container)
    side.see(
        "disconnected",
        [side.inspect("n")["Containers"], sorted(side.container("renamed")["NetworkSettings"]["Networks"])],
    )
    side.see("no interface", "10.20.0." in side.exec("renamed", "ip", "address"))
    side.refusal("disconnect again", "POST", "/networks/n/disconnect", {"Container": "renamed"})
    side.refusal("by force", "POST", "/networks/n/disconnect", {"Container": "renamed", "Force": True})
    side.connect("n", "renamed")
    side.disconnect("n", "renamed", force=True)
    side.see("disconnected by force", side.inspect("n")["Containers"])
    side.refusal("no network", "POST", "/networks/none-such/connect", {"Container": "renamed"})
    side.refusal("no container", "POST", "/networks/n/connect", {"Container": "none-such"})
    side.refusal("the network host", "POST", "/networks/host/connect", {"Container": "renamed"})


@scenario
def a_container_that_does_not_run_is_connected(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    side.network("m", {"Subnet": "10.21.0.0/24"})
    side.create("cc", "n")
    side.connect("m", "cc", {"Aliases": ["foo"], "IPAMConfig": {"IPv4Address": "10.21.0.77"}})
    side.see(
        "before the start",
        plain(side.container("cc")["NetworkSettings"]["Networks"], "MacAddress", "Gateway"),
    )
    side.start("cc")
    side.see("running", plain(side.container("cc")["NetworkSettings"]["Networks"], "MacAddress", "Gateway"))
    side.api("POST", "/containers/cc/restart", t=1)
    side.see("again", side.address("cc", "m"))
    side.stop("cc")
    side.see("stopped", plain(side.endpoint("cc", "m")))
    side.disconnect("m", "cc")
    side.see("networks", sorted(side.container("cc")["NetworkSettings"]["Networks"]))
    side.start("cc")
    side.see("networks of the running one", sorted(side.container("cc")["NetworkSettings"]["Networks"]))


@scenario
def addresses_are_fixed(side: Side) -> None:
    side.network("n", {"Subnet": "172.28.0.0/16"}, SIX, EnableIPv6=True)
    side.network(
        "m",
        {"Subnet": "172.30.0.0/16", "IPRange": "172.30.5.0/24"},
        {"Subnet": "2001:db8:abcd::/64"},
        EnableIPv6=True,
    )
    fixed = {"IPv4Address": "172.28.99.88", "IPv6Address": "2001:db8:1234::9988"}
    side.run("cc", "n", {"IPAMConfig": fixed})
    side.connect(
        "m", "cc", {"IPAMConfig": {"IPv4Address": "172.30.6.44", "IPv6Address": "2001:db8:abcd::5544"}}
    )
    side.see(
        "running",
        plain(side.container("cc")["NetworkSettings"]["Networks"], "MacAddress", "Gateway", "IPv6Gateway"),
    )
    side.api("POST", "/containers/cc/restart", t=1)
    side.see(
        "again",
        plain(side.container("cc")["NetworkSettings"]["Networks"], "MacAddress", "Gateway", "IPv6Gateway"),
    )
    side.see(
        "on the link",
        sorted(
            word
            for word in side.exec("cc", "ip", "-oneline", "address").split()
            if word.startswith(("172.28", "172.30", "2001:"))
        ),
    )

    def refused(label: str, **config: str) -> None:
        side.see(label, side.attempt("other", "n", {"IPAMConfig": config}))

    refused("of another container", IPv4Address="172.28.99.88")
    refused("of another container, IPv6", IPv6Address="2001:db8:1234::9988")
    refused("of the gateway", IPv4Address="172.28.0.1")
    refused("of the network", IPv4Address="172.28.0.0")
    refused("of all", IPv4Address="172.28.255.255")
    refused("outside", IPv4Address="172.31.0.5")
    refused("outside of the range", IPv4Address="172.28.200.5")
    refused("no address", IPv4Address="mine")
    refused("IPv6 for IPv4", IPv4Address="2001:db8:1234::5")
    refused("IPv4 for IPv6", IPv6Address="172.28.99.99")
    refused("an IPv4 address as IPv6", IPv6Address="::ffff:172.28.99.99")


@scenario
def addresses_are_assigned_in_order(side: Side) -> None:
    side.network(
        "n",
        {"Subnet": "10.20.0.0/24", "IPRange": "10.20.0.8/29", "AuxiliaryAddresses": {"router": "10.20.0.10"}},
    )
    for name in ("ca", "cb", "cc"):
        side.run(name, "n")
    side.see("in turn", [side.address(name, "n") for name in ("ca", "cb", "cc")])
    side.stop("cb")
    side.run("cd", "n")
    side.start("cb")
    addresses = {side.address(name, "n") for name in ("ca", "cb", "cc", "cd")}
    side.see("all different", len(addresses))


@scenario
def addresses_run_out(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/30"})
    side.run("ca", "n")
    side.see("the only one", side.address("ca", "n"))
    side.create("cb", "n")
    side.refusal("one more", "POST", "/containers/cb/start")
    side.api("DELETE", "/containers/ca", force=1)
    side.start("cb")
    side.see("then", side.address("cb", "n"))


@scenario
def mac_addresses(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    wide = {"MacAddress": "02:42:ac:11:00:42"}
    side.run("cc", "n", wide, **wide)
    side.see("as asked", side.endpoint("cc", "n")["MacAddress"])
    side.see("on the link", "02:42:ac:11:00:42" in side.exec("cc", "ip", "link", "show", "eth0"))
    side.api("POST", "/containers/cc/restart", t=1)
    side.see("again", side.endpoint("cc", "n")["MacAddress"])
    side.run("cd", "n")
    side.stop("cd")
    side.run("ce", "n")
    side.start("cd")
    made = {side.endpoint(name, "n")["MacAddress"] for name in ("cd", "ce")}
    side.see("different", len(made))
    side.see("of this machine alone", {int(mac[:2], 16) & 3 for mac in made} == {2})
    side.refusal(
        "no MAC", "POST", "/containers/create", side.contained("n", {"MacAddress": "mine"}, MacAddress="mine")
    )
    side.network("m", {"Subnet": "10.21.0.0/24"})
    side.connect("m", "cc")
    side.see("another one on another network", side.endpoint("cc", "m")["MacAddress"] != "02:42:ac:11:00:42")


@scenario
def names_aliases_and_links(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    side.network("m", {"Subnet": "10.21.0.0/24"})
    first = side.run("first.a", "n", {"Aliases": ["foo", "Bar"]})
    quick = {"HostConfig": QUICK}
    side.run("second", "n", {"Links": ["first.a:linked", "later:other"]}, **quick)
    side.see(
        "endpoints",
        [plain(side.endpoint(name, "n"), "MacAddress", "Gateway") for name in ("first.a", "second")],
    )
    names = ["first.a", "foo", "bar", first[:12], "first.a.n", "linked", "other", "none-such"]
    side.see("which", plain(side.reaches("second", *names)))
    side.connect("m", "first.a", {"Aliases": ["baz"]})
    side.connect("m", "second", {"Links": ["first.a:there"]})
    side.disconnect("n", "first.a")
    names = ["first.a", "foo", "baz", "linked", "there"]
    side.see("which, on another network", side.reaches("second", *names))
    side.stop("first.a")
    side.see("when it has stopped", side.reaches("second", "first.a", "baz"))


@scenario
def files_of_a_container(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"}, SIX, EnableIPv6=True)
    host = {"ExtraHosts": ["there:10.1.2.3"], "Dns": ["10.9.9.9"], "DnsSearch": ["example.test"]}
    side.run("cc", "n", Hostname="box", Domainname="example.test", HostConfig=host)
    files = side.exec("cc", "cat", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts").splitlines()
    own = [line for line in files if line.endswith("\tbox.example.test box")]
    side.see("addresses of its own name", [line.split()[0] for line in own])
    side.see("other lines", [line for line in files if line not in own and not line.startswith("#")])
    side.run("cd", "n", HostConfig={"ExtraHosts": ["host.docker.internal:host-gateway"]})
    side.see("host-gateway", "host.docker.internal" in side.exec("cd", "cat", "/etc/hosts"))


@scenario
def an_internal_network_has_no_way_out(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"}, Internal=True)
    for name in ("first", "second"):
        side.run(name, "n", HostConfig=QUICK)
    said = side.fails("first", "ping", "-c", "1", "-W", "1", "8.8.8.8")
    side.see("outside is unreachable", "unreachable" in said)
    side.see("each other", side.reaches("second", "first"))
    side.see("routes", [line.split()[0] for line in side.exec("first", "ip", "route").splitlines()])
    side.see("interfaces", side.exec("first", "ls", "/sys/class/net").split())


@scenario
def networks_are_isolated(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    side.network("m", {"Subnet": "10.21.0.0/24"})
    side.run("cc", "n")
    side.run("cd", "m")
    side.see("reached", side.reaches("cc", side.address("cd", "m")))
    side.see("interfaces", side.exec("cc", "ls", "/sys/class/net").split())
    gateway_bridge = [pool["Subnet"] for pool in side.inspect("docker_gwbridge")["IPAM"]["Config"]]
    routes = [line.split()[0] for line in side.exec("cc", "ip", "route").splitlines()]
    side.see("routes", ["docker_gwbridge" if route in gateway_bridge else route for route in routes])
    side.see("a way out", side.reaches("cc", side.host.address))
    side.see("the gateway answers", side.reaches("cc", "10.20.0.1") != [])


@scenario
def ports_are_published(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    side.network("a", {"Subnet": "10.21.0.0/24"})
    ports = {"80/tcp": [{"HostPort": "8080"}]}
    exposed = {"ExposedPorts": {port: {} for port in ("80/tcp", "443/tcp", "9/udp")}}
    command = {"Cmd": ["httpd", "-f", "-p", "80"]}
    side.run("cc", "n", HostConfig={"PortBindings": ports}, **exposed, **command)

    def shown() -> Json:
        bound = side.container("cc")["NetworkSettings"]["Ports"]
        return {port: bindings if port == "80/tcp" else bool(bindings) for port, bindings in bound.items()}

    side.see("ports", shown())
    side.see("served", side.serves("127.0.0.1"))
    (listed,) = side.api("GET", "/containers/json")
    side.see(
        "in the list",
        sorted((port["PrivatePort"], port.get("PublicPort") == 8080) for port in listed["Ports"]),
    )
    side.connect("a", "cc")
    side.see("ports with another network", shown())
    side.see("served with another network", side.serves("127.0.0.1"))
    side.disconnect("n", "cc")
    side.see("ports with the other network alone", shown())
    side.see("served with the other network alone", side.serves("127.0.0.1"))
    side.create("cd", "n", HostConfig={"PortBindings": ports}, **exposed)
    side.refusal("taken", "POST", "/containers/cd/start")


@scenario
def a_container_is_on_a_network_and_a_bridge(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    side.api("POST", "/networks/create", {"Name": "plain", "Driver": "bridge"})
    command = {"Cmd": ["httpd", "-f", "-p", "80"], "ExposedPorts": {"80/tcp": {}}}
    side.run("c1", "n", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}, **command)
    side.run("c2", "n")

    def served() -> list[bool]:
        return [side.serves(side.host.address), side.serves(side.host.address, "c2")]

    side.see("served to the host and to a neighbour", served())
    side.connect("plain", "c1")
    side.see("served with a bridge", served())
    side.see("a way out", side.reaches("c1", side.host.address))
    side.see("default routes", side.exec("c1", "ip", "route").count("default"))
    side.see("neighbour", side.reaches("c2", "c1"))
    side.disconnect("n", "c1")
    side.see("served with the bridge alone", served())


@scenario
def a_network_of_ipv6_alone(side: Side) -> None:
    """Docker before 27 does not have EnableIPv4, and adds an IPv4 subnet."""
    side.network("n", SIX, EnableIPv4=False, EnableIPv6=True)
    side.see("EnableIPv4", side.inspect("n").get("EnableIPv4"))
    side.run("c1", "n")
    fixed = {"IPAMConfig": {"IPv6Address": "2001:db8:1234::77"}}
    side.run("c2", "n", fixed)
    side.see("addresses of IPv6", [side.endpoint(name, "n")["GlobalIPv6Address"] for name in ("c1", "c2")])
    side.see("each other", side.reaches("c1", "2001:db8:1234::77"))


@scenario
def settings_of_an_interface(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    sysctls = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}
    side.run("c1", "n", {"DriverOpts": sysctls})
    side.see("sysctl", side.exec("c1", "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"))
    side.run("c2", "n", {"DriverOpts": {"com.docker.network.endpoint.ifname": "foo0"}})
    side.see("name", side.exec("c2", "ip", "-oneline", "link").count(" foo0@"))


@scenario
def options_of_an_endpoint(side: Side) -> None:
    identity = side.network("n", {"Subnet": "10.20.0.0/24"})
    options = {"com.example.opt": "1", "key2": "2"}
    side.run("cc", "n", {"DriverOpts": options})
    side.see("kept", side.endpoint("cc", "n")["DriverOpts"])
    side.run("cd", identity)
    side.see("by ID", sorted(side.container("cd")["NetworkSettings"]["Networks"]))
    side.refusal(
        "link-local address that is none",
        "POST",
        "/containers/create",
        side.contained("n", {"IPAMConfig": {"LinkLocalIPs": ["169.253.5.5"]}}),
    )
    for name, address in (("ce", "169.254.8.8"), ("cf", "169.254.9.9")):
        side.run(name, "n", {"IPAMConfig": {"LinkLocalIPs": [address]}})
    side.see("link-local", side.endpoint("ce", "n")["IPAMConfig"])
    side.see("each other by link-local addresses", side.reaches("ce", "169.254.9.9"))


@scenario
def events_are_sent(side: Side) -> None:
    since = time.time()
    identity = side.network("n", {"Subnet": "10.20.0.0/24"})
    side.run("cc", "n")
    side.disconnect("n", "cc")
    side.connect("n", "cc")
    side.api("DELETE", "/containers/cc", force=1)
    side.remove("n")
    events = side.api(
        "GET", "/events", since=f"{since:.6f}", until=f"{time.time():.6f}", filters={"network": [identity]}
    )
    side.see("events", [event["Action"] for event in events])
    side.see("attributes", sorted({key for event in events for key in event["Actor"]["Attributes"]}))


@scenario
def dockerd_is_killed(side: Side) -> None:
    side.network("n", {"Subnet": "10.20.0.0/24"})
    side.network("m", {"Subnet": "10.21.0.0/24"})
    side.run("c1", "n", {"IPAMConfig": {"IPv4Address": "10.20.0.10"}})
    side.connect("m", "c1")
    side.run("c2", "n", HostConfig={"RestartPolicy": {"Name": "always"}})
    side.host.dockerd.kill()
    side.host.dockerd.start()
    wait_for(lambda: side.container("c2")["State"]["Running"], "the container that is restarted")
    side.see("reuse of an address", side.attempt("c3", "n", {"IPAMConfig": {"IPv4Address": "10.20.0.10"}}))
    side.start("c1")
    side.see("networks", sorted(side.container("c1")["NetworkSettings"]["Networks"]))
    side.see("each other", side.reaches("c2", side.address("c1", "n")))


@scenario
def invalid_networks_are_refused(side: Side) -> None:
    def refused(label: str, *pools: dict[str, Json], **members: Json) -> None:
        side.refusal(label, "POST", "/networks/create", side.wanted("refused", *pools, **members))
        for network in side.networks(name=["refused"]):
            side.remove(network["Id"])

    fresh = side.fresh_subnets  # Docker 20.10 keeps the pools of networks that it refuses
    refused("range outside of the subnet", {"Subnet": str(next(fresh)), "IPRange": "192.170.0.0/24"})
    refused("gateway outside of the subnet", {"Subnet": str(next(fresh)), "Gateway": "192.170.0.1"})
    auxiliary = {"AuxiliaryAddresses": {"a": "192.170.0.1"}}
    refused("auxiliary address outside", {"Subnet": str(next(fresh))} | auxiliary)
    base = next(fresh)
    refused("gateway without subnet", {"Gateway": str(base[1])})
    base = next(fresh)
    refused("two gateways", *({"Subnet": str(base), "Gateway": str(base[n])} for n in (1, 2)))
    base = next(fresh)
    refused("two subnets that overlap", {"Subnet": str(base)}, {"Subnet": f"{base[256]}/24"})
    refused("two subnets", *({"Subnet": str(next(fresh))} for _ in range(2)))
    refused("a subnet that is none", {"Subnet": "lots"})
    refused("prefix too long", {"Subnet": "192.168.0.0/33"})
    refused("gateway that is no address", {"Subnet": str(next(fresh)), "Gateway": "first"})
    refused("host bits in an IPv4 subnet", {"Subnet": f"{next(fresh)[77]}/20"})
    for length in (32, 31, 30):
        refused(f"subnet /{length}", {"Subnet": f"{next(fresh)[4]}/{length}"})
    base = next(fresh)
    refused("network address as gateway", {"Subnet": str(base), "Gateway": str(base[0])})
    refused("multicast", {"Subnet": "224.1.0.0/16"})
    refused("IPv6 subnet without EnableIPv6", {"Subnet": "2001:db8:77::/64"})
    refused("EnableIPv6 without IPv6 subnet", {"Subnet": str(next(fresh))}, EnableIPv6=True)
    refused(
        "IPv4 gateway of an IPv6 subnet",
        {"Subnet": "2001:db8:78::/64", "Gateway": "192.168.0.1"},
        EnableIPv6=True,
    )
    refused("host bits in an IPv6 subnet", {"Subnet": "2001:389::1/64"}, EnableIPv6=True)
    refused(
        "option of the driver of addresses", IPAM={"Driver": side.driver.ipam, "Options": {"opt1": "drv1"}}
    )
    refused("scope global", Scope="global")
    base = next(fresh)
    side.network("taken", {"Subnet": str(base)})
    refused("subnet within another network's", {"Subnet": f"{base[256]}/24"})
    refused("subnet around another network's", {"Subnet": str(base.supernet())})
    for name in ("bridge", "host", "none", "default", "", "  "):
        side.refusal(f"the name {name!r}", "POST", "/networks/create", side.wanted(name))
    side.refusal("no addresses", "POST", "/networks/create", side.wanted("null", IPAM={"Driver": "null"}))
    if side.seen["no addresses"] == 0:
        side.see("a container without addresses", side.attempt("c1", "null", {}))
