"""The floor: the cost of an endpoint's life without any driver.

A script that makes the same rows and the same link, and waits for ovn-controller as the driver does. It keeps
its connections open, checks nothing, undoes nothing and answers no calls.
"""

import json
import socket
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.ovsdb import Reference as Row
from ovn_docker.host.ovsdb import delete as delete_rows
from ovn_docker.host.ovsdb import has, insert, is_row, mutate, require, select

Operation = dict[str, Any]


class Ovsdb:
    """One connection to an ovsdb-server, at ``unix:PATH`` or ``tcp:IP:PORT``; one request at a time."""

    def __init__(self, remote: str, database: str) -> None:
        kind, _, where = remote.partition(":")
        if kind == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(where)
        else:
            host, _, port = where.rpartition(":")
            self._socket = socket.create_connection((host, int(port)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._database = database
        self._ids = count()
        self._received = ""

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def transact(self, *operations: Operation) -> list[Any]:
        """Return the results of a transaction. Raises RuntimeError if the server refuses it."""
        number = next(self._ids)
        self._send(id=number, method="transact", params=[self._database, *operations])
        while True:
            message = self._receive()
            if message["id"] == number:
                break
            self._send(id=message["id"], result=message["params"], error=None)  # an echo request
        if message["error"] or any(result and "error" in result for result in message["result"]):
            raise RuntimeError(str(message))
        return list(message["result"])

    def flows(self, port: str) -> None:
        """Wait until ovn-controller has installed the flows of the logical port."""
        installed = {"iface-id": port, "ovn-installed": "true"}
        wait = {"op": "wait", "timeout": 30000, "table": "Interface", "columns": ["type"], "until": "=="}
        self.transact({**wait, "where": [has("external_ids", installed)], "rows": [{"type": ""}]})

    def _send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode())

    def _receive(self) -> dict[str, Any]:
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._received)
            except ValueError:
                self._received += self._socket.recv(1 << 16).decode()
            else:
                self._received = self._received[end:]
                return dict(message)


class Floor:
    """The operations of an endpoint's life, by the names of Docker's calls."""

    def __init__(self, northbound: str, vswitch: str, bridge: str, mtu: int) -> None:
        self._northbound = Ovsdb(northbound, "OVN_Northbound")
        self._vswitch = Ovsdb(vswitch, "Open_vSwitch")
        self._links = KernelLinks()
        self._bridge = bridge
        self._mtu = mtu

    def create_network(self, network: str, subnet: str, gateway: str) -> None:
        """Make a logical switch."""
        ids = {"subnet": subnet}
        self._northbound.transact(insert("Logical_Switch", _switch(network), name=network, external_ids=ids))

    def endpoint_call(self, method: str, network: str, endpoint: str, address: str) -> None:
        """Do the work of one of Docker's calls."""
        self._switch = _switch(network)
        getattr(self, f"_{method}")(endpoint, address.partition("/")[0])

    def _CreateEndpoint(self, endpoint: str, ip: str) -> None:
        self._port, self._ovs_port, self._interface = (str(uuid4()) for _ in range(3))
        self._claims = [str(uuid4()), str(uuid4())]
        mac = "02:42:" + socket.inet_aton(ip).hex(":")
        addresses = f"{mac} {ip}"
        ids = {"network": self._switch, "endpoint": endpoint}
        self._northbound.transact(
            insert("Logical_Switch_Port", self._port, name=endpoint, addresses=addresses,
                   port_security=addresses, external_ids=ids),
            mutate("Logical_Switch", is_row(self._switch),
                   mutations=[["ports", "insert", [Row(self._port)]]]),
            *(insert("DHCP_Options", row, cidr=ip, external_ids=ids) for row in self._claims),
        )  # fmt: skip
        host, container = f"odf{endpoint[:12]}", f"odg{endpoint[:12]}"
        self._links.create_veth(host, container, mac=mac, mtu=self._mtu, tx_checksums=False)
        ids = {"iface-id": endpoint, "iface-status": "active", "attached-mac": mac}
        self._vswitch.transact(
            insert("Interface", self._interface, name=host, external_ids=ids),
            insert("Port", self._ovs_port, name=host, interfaces=Row(self._interface)),
            mutate("Bridge", ["name", "==", self._bridge],
                   mutations=[["ports", "insert", [Row(self._ovs_port)]]]),
        )  # fmt: skip

    def _Join(self, endpoint: str, ip: str) -> None:
        vm_id = [["external_ids", "insert", {"vm-id": endpoint[:12]}]]
        installed = has("external_ids", {"ovn-installed": "true"})
        self._vswitch.transact(mutate("Interface", is_row(self._interface), mutations=vm_id))
        self._vswitch.transact(require("Interface", self._interface, installed, wait=30))

    def _EndpointOperInfo(self, endpoint: str, ip: str) -> None:
        self._vswitch.transact(select("Interface", is_row(self._interface), columns=["external_ids"]))

    def _Leave(self, endpoint: str, ip: str) -> None:
        ports = [["ports", "delete", [Row(self._ovs_port)]]]
        self._vswitch.transact(mutate("Bridge", ["name", "==", self._bridge], mutations=ports))
        self._links.delete(f"odf{endpoint[:12]}")

    def _DeleteEndpoint(self, endpoint: str, ip: str) -> None:
        self._northbound.transact(
            mutate("Logical_Switch", is_row(self._switch),
                   mutations=[["ports", "delete", [Row(self._port)]]]),
            *(delete_rows("DHCP_Options", is_row(row)) for row in self._claims),
        )  # fmt: skip


def _switch(network: str) -> str:
    return str(UUID(network[:32]))
