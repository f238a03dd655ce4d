"""Ages of resources in Neutron, when the clocks of the VM and of Neutron differ by an hour.

Keystone and Neutron are simulated, because the real ones in tests/e2e/lab/cloud use this machine's clock.
"""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from ovn_docker.backends.neutron.api import Neutron
from ovn_docker.backends.neutron.leases import Leases
from ovn_docker.backends.neutron.trunk import TrunkParent
from ovn_docker.deadline import Deadline
from ovn_docker.model import Kind

VIF = "e798c371-85f4-4f2d-ad65-d09dd1d3c1c9"


class Cloud(http.server.BaseHTTPRequestHandler):
    """Keystone and Neutron at one address; *ahead*: seconds that their clock is ahead of ours."""

    protocol_version = "HTTP/1.1"
    ahead = 0

    def do_GET(self) -> None:
        where = f"http://{self.headers['Host']}"
        if self.path.startswith("/v2.0/"):
            self._answer(200, {"subnetpools": self._pools(), "ports": [], "security_groups": [{"id": "g"}]})
        elif self.path.startswith("/v3"):
            link = {"rel": "self", "href": f"{where}/v3/"}
            self._answer(200, {"version": {"id": "v3.14", "status": "stable", "links": [link]}})
        else:
            link = {"rel": "self", "href": f"{where}/v2.0/"}
            self._answer(200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        where = f"http://{self.headers['Host']}"
        network = {"interface": "public", "region": "r", "region_id": "r", "url": where, "id": "1"}
        token = {
            "catalog": [{"type": "network", "name": "neutron", "id": "n", "endpoints": [network]}],
            "project": {"id": "p", "name": "p", "domain": {"id": "default", "name": "Default"}},
            "user": {"id": "u", "name": "u", "domain": {"id": "default", "name": "Default"}},
            "methods": ["password"], "roles": [], "audit_ids": ["a"],
            "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z",
        }  # fmt: skip
        self._answer(201, {"token": token}, **{"X-Subject-Token": "t"})

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((timestamp or time.time()) + self.ahead, usegmt=True)

    def log_message(self, *_: object) -> None:
        pass

    def _pools(self) -> list[dict[str, Any]]:
        """Return a pool made a minute ago, and one made an hour ago, by Neutron's clock."""
        now = time.time() + self.ahead
        return [
            {
                "id": name, "name": name, "prefixes": ["10.0.0.0/24"], "tags": [],
                "description": f"ovn-docker pool of {VIF}",
                "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - ago)),
            }
            for name, ago in (("young", 60), ("old", 3600))
        ]  # fmt: skip

    def _answer(self, status: int, body: object, **headers: str) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def neutron(request: pytest.FixtureRequest) -> Iterator[Neutron]:
    handler = type("Handler", (Cloud,), {"ahead": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Neutron(
            {
                "auth_type": "password", "auth_url": f"http://127.0.0.1:{server.server_port}/v3",
                "username": "u", "password": "p", "project_id": "p", "user_domain_id": "default",
            }
        )  # fmt: skip
        server.shutdown()


@pytest.mark.parametrize("neutron", [0, 3600, -3600], indirect=True)
def test_only_the_pool_that_is_old_by_neutrons_clock_is_a_leftover(neutron: Neutron) -> None:
    strays = Leases(neutron, VIF, TrunkParent(neutron, VIF)).leftovers(Deadline(20))
    assert [(one.kind, one.row) for one in strays] == [(Kind.POOL, "old")]
