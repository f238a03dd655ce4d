"""Substitutes that many drivers on one host need: ``python -m bench.stand_in NUMBER NORTHBOUND ENCAP_IP``.

For each host a real database server for Open_vSwitch, and substitutes for ovs-vswitchd (numbers the ports),
ovn-controller (reports installed flows) and dockerd (lists and makes networks). So only the drivers and the
northbound database are measured.
"""

import asyncio
import json
import secrets
import sys
from itertools import count
from pathlib import Path
from typing import Any

from bench.floor import Ovsdb

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
READY = Path("/run/many/ready")

CREATED = (
    json.dumps({"Type": "network", "Action": "create", "Actor": {"ID": "", "Attributes": {}}}).encode()
    + b"\n"
)
"""Docker's event after it has made a network."""


def directory(number: int) -> Path:
    """Return the directory of a host."""
    return Path(f"/run/many/{number}")


async def main(hosts: int, northbound: str, encap_ip: str) -> None:
    """Serve until killed."""
    for number in range(hosts):
        await _Host(number).start(northbound, encap_ip)
    READY.touch()
    await asyncio.Event().wait()


class _Host:
    def __init__(self, number: int) -> None:
        self._number = number
        self._path = directory(number)
        self._networks: list[dict[str, Any]] = []
        self._listeners: list[asyncio.StreamWriter] = []
        self._ports = count(1)
        self._requests = count()

    async def start(self, northbound: str, encap_ip: str) -> None:
        self._path.mkdir(parents=True)
        database, socket = self._path / "conf.db", self._path / "db.sock"
        await (await asyncio.create_subprocess_exec("ovsdb-tool", "create", database, SCHEMA)).wait()
        remotes = (f"--remote=punix:{socket}", f"--unixctl={self._path}/ovsdb.ctl", "-vconsole:off")
        await asyncio.create_subprocess_exec("ovsdb-server", database, *remotes)
        while not socket.exists():
            await asyncio.sleep(0.01)
        ids = {"system-id": f"many{self._number}", "ovn-nb": northbound, "ovn-remote": northbound,
               "ovn-encap-ip": encap_ip, "ovn-encap-type": "geneve"}  # fmt: skip
        Ovsdb(f"unix:{socket}", "Open_vSwitch").transact(
            {"op": "insert", "table": "Bridge", "uuid-name": "b",
             "row": {"name": "br-int", "datapath_type": "netdev"}},
            {"op": "insert", "table": "Open_vSwitch",
             "row": {"bridges": ["named-uuid", "b"], "external_ids": ["map", [*map(list, ids.items())]]}},
        )  # fmt: skip
        (self._path / "ovn-controller.pid").write_text("1\n")
        await asyncio.start_unix_server(self._control, self._path / "ovn-controller.1.ctl")
        await asyncio.start_unix_server(self._docker, self._path / "docker.sock")
        self._task = asyncio.create_task(self._switch(socket))

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer that the southbound database is connected."""
        if await reader.read(4096):
            writer.write(json.dumps({"id": 0, "result": "connected", "error": None}).encode())
            await reader.read()
        writer.close()

    async def _docker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of Docker's API."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (int(line.split(":")[1]) for line in head.lower().split("\r\n") if "length:" in line), 0
        )
        body, answer = await reader.readexactly(length), []
        if head.startswith("POST /networks/create"):
            self._networks.append({"Id": secrets.token_hex(32), **json.loads(body)})
            for listener in self._listeners:
                listener.write(b"%x\r\n%s\r\n" % (len(CREATED), CREATED))
        elif head.startswith("GET /networks"):
            answer = self._networks
        elif head.startswith("GET /events"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self._listeners.append(writer)
            await reader.read()
            self._listeners.remove(writer)
            return
        text = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text)
        )
        await writer.drain()
        writer.close()

    async def _switch(self, socket: Path) -> None:
        """Give every new interface a number, and report its flows as installed."""
        reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 24)
        select = {"initial": False, "insert": True, "delete": False, "modify": False}
        self._ask(writer, "monitor", None, {"Interface": {"columns": ["name"], "select": select}})
        decoder, text = json.JSONDecoder(), ""
        while data := await reader.read(1 << 16):
            text += data.decode()
            while text:
                try:
                    message, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                if message.get("method") == "echo":
                    writer.write(json.dumps({"id": message["id"], "result": [], "error": None}).encode())
                elif message.get("method") == "update":
                    for row in message["params"][1]["Interface"]:
                        self._take_up(writer, row)

    def _take_up(self, writer: asyncio.StreamWriter, row: str) -> None:
        where = [["_uuid", "==", ["uuid", row]]]
        flows = [["external_ids", "insert", ["map", [["ovn-installed", "true"]]]]]
        self._ask(
            writer, "transact",
            {"op": "update", "table": "Interface", "where": where, "row": {"ofport": next(self._ports)}},
            {"op": "mutate", "table": "Interface", "where": where, "mutations": flows},
        )  # fmt: skip

    def _ask(self, writer: asyncio.StreamWriter, method: str, *params: Any) -> None:
        request = {"id": next(self._requests), "method": method, "params": ["Open_vSwitch", *params]}
        writer.write(json.dumps(request).encode())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
