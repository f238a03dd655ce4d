"""What once did harm, or nearly, does none any more; and the seeds that fuzzing begins with do none."""

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
def test_file(file: Path) -> None:
    targets.TARGETS[file.parent.name]((CORPUS / file).read_bytes())


@pytest.mark.parametrize("target", targets.TARGETS)
def test_seeds(target: str) -> None:
    for seed in targets.seeds(target):
        targets.TARGETS[target](seed)


class Liar:
    """A database server that says the same to everybody, whatever he asks; then it listens on."""

    def __init__(self, path: Path) -> None:
        self.says = b""
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
                threading.Thread(target=self._lie, args=(client,), daemon=True).start()

    def _lie(self, client: socket.socket) -> None:
        with client, suppress(OSError, ValueError):
            while data := client.recv(1 << 16):
                number = json.loads(data)["id"]
                client.sendall(self.says.replace(b'"id": 1,', b'"id": %d,' % number))


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Liar]:
    liar = Liar(tmp_path / "db.sock")
    yield liar
    liar.close()


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "database"], ids=str)
def test_whatever_a_database_says_a_call_ends_with_an_error_and_the_next_works(
    liar: Liar, tmp_path: Path, file: Path
) -> None:
    database = Database("OVN_Northbound", [f"unix:{tmp_path}/db.sock"])
    liar.says = (CORPUS / file).read_bytes()[1:]
    with pytest.raises(OvnDockerError):
        database.transact(*[select("T", columns=[])] * 3, deadline=Deadline(0.3))
    liar.says = b'{"id": 1, "error": null, "result": [{"rows": []}]}'
    assert database.transact(select("T", columns=[]), deadline=Deadline(10)) == [[]]
    database.close()
