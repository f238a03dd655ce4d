"""A simulated Docker: a server that replies to requests to Docker's API."""

import http.server
import json
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Api(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Server of Docker's API on a Unix socket, without events.

    *answer*: returns the value at a path, None for an unknown path; bytes are sent unchanged.
    """

    daemon_threads = True

    def __init__(self, path: Path, answer: Callable[[str], Any]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.startswith("/events"):
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.rfile.read(1)  # until the driver closes the connection
                    return
                said = answer(self.path)
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(200 if body != b"null" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "driver"

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """End the server."""
        self.shutdown()
        self.server_close()
