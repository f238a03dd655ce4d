"""Calls to many drivers on one host: ``python -m bench.create_many``, with a plan on standard input."""

import json
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.plugin_calls import Plugin, UnixConnection
from bench.stand_in import directory

SUBNET = "10.40.0.0/14"


def shared_network(hosts: int, name: str, subnet: str = SUBNET) -> float:
    """Measure the seconds from a network's creation on the first host until Docker on every host has it."""
    start = time.perf_counter()
    network = secrets.token_hex(32)
    create_network(Plugin(f"{directory(0)}/plugin.sock"), network, name, subnet)
    docker(0, "POST", "/networks/create", {
        "Id": network, "Name": name, "Driver": "openvswitch", "Options": {"ovn.network": name},
        "IPAM": {"Config": [{"Subnet": subnet}]},
    })  # fmt: skip
    missing = set(range(1, hosts))
    while missing:
        time.sleep(0.02)
        missing = {
            host for host in missing if name not in {n["Name"] for n in docker(host, "GET", "/networks")}
        }
    return time.perf_counter() - start


def endpoints(hosts: int, each: int, name: str) -> dict[str, Any]:
    """Make *each* endpoints on every host, on all hosts at once, and leave them there.

    Returns the seconds that all and each have taken, and the messages of the calls that failed.
    """
    failed: list[str] = []

    def on(host: int) -> list[float]:
        plugin, network, took = Plugin(f"{directory(host)}/plugin.sock"), secrets.token_hex(32), []
        create_network(plugin, network, name)
        for number in range(each):
            endpoint, address = secrets.token_hex(32), f"10.{40 + host // 250}.{host % 250}.{number + 2}/14"
            start = time.perf_counter()
            try:
                for call in ("CreateEndpoint", "Join"):
                    plugin.endpoint_call(call, network, endpoint, address)
            except RuntimeError as error:
                failed.append(str(error))
            took.append(time.perf_counter() - start)
        return took

    start = time.perf_counter()
    with ThreadPoolExecutor(hosts) as threads:
        each_took = list(threads.map(on, range(hosts)))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "each": [took for host in each_took for took in host], "failed": failed}


def create_network(plugin: Plugin, network: str, name: str, subnet: str = SUBNET) -> None:
    """Create a shared network with the calls that Docker makes."""
    pool = {"AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": ""}
    options = {"com.docker.network.generic": {"ovn.network": name}}
    plugin.call("CreateNetwork", NetworkID=network, Options=options, IPv4Data=[pool], IPv6Data=[])


def docker(host: int, method: str, path: str, body: object = None) -> Any:
    """Send a request to Docker's API."""
    connection = UnixConnection(f"{directory(host)}/docker.sock")
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse().read()
    connection.close()
    return json.loads(answer)


if __name__ == "__main__":
    plan: dict[str, Any] = json.load(sys.stdin)
    function = {"shared_network": shared_network, "endpoints": endpoints}[plan.pop("what")]
    json.dump(function(**plan), sys.stdout)
