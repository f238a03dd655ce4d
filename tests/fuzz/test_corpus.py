"""Inputs that once caused failures, and the seeds of fuzzing, cause no failure."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fuzz import targets
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.ovsdb import Database, select

CORPUS = Path(__file__).with_name("corpus")
FILES = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_inputs_that_once_caused_failures_cause_none(file: Path) -> None:
    targets.TARGETS[file.parent.name]((CORPUS / file).read_bytes())


@pytest.mark.parametrize("target", targets.TARGETS)
def test_seed_causes_no_failure(target: str) -> None:
    for seed in targets.seeds(target):
        targets.TARGETS[target](seed)


class HostileServer:
    """A database server that sends the same bytes to every client, whatever the request."""

    def __init__(self, path: Path) -> None:
        self.reply = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._reply, args=(client,), daemon=True).start()

    def _reply(self, client: socket.socket) -> None:
        with client, suppress(OSError, ValueError):
            while data := client.recv(1 << 16):
                number = json.loads(data)["id"]
                client.sendall(self.reply.replace(b'"id": 1,', b'"id": %d,' % number))


@pytest.fixture
def hostile_server(tmp_path: Path) -> Iterator[HostileServer]:
    hostile_server = HostileServer(tmp_path / "db.sock")
    yield hostile_server
    hostile_server.close()


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "database"], ids=str)
def test_invalid_reply_of_a_database_fails_one_call_and_the_next_succeeds(
    hostile_server: HostileServer, tmp_path: Path, file: Path
) -> None:
    database = Database("OVN_Northbound", [f"unix:{tmp_path}/db.sock"])
    hostile_server.reply = (CORPUS / file).read_bytes()[1:]
    with pytest.raises(OvnDockerError):
        database.transact(*[select("T", columns=[])] * 3, deadline=Deadline(0.3))
    hostile_server.reply = b'{"id": 1, "error": null, "result": [{"rows": []}]}'
    assert database.transact(select("T", columns=[]), deadline=Deadline(10)) == [[]]
    database.close()
