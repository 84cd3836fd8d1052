"""The pause switch of the demo's backend: a real HTTP server on loopback that says the profile is paused."""

from __future__ import annotations

import json
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from recon.demo.clock import DEMO_PROFILE
from recon.pause import STATUS_PATH

_ANSWER = json.dumps({"profiles": {DEMO_PROFILE: {"status": "PAUSED"}}}).encode()


class _PauseSwitch(BaseHTTPRequestHandler):
    """Answers GET on `STATUS_PATH` with the paused profile, any other path with 404."""

    def do_GET(self) -> None:
        """Answer one request; the name is the standard library's."""
        if urlsplit(self.path).path != STATUS_PATH:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_ANSWER)))
        self.end_headers()
        self.wfile.write(_ANSWER)

    def log_message(self, *args: object) -> None:
        """Keep quiet: the requests are recon's own."""


@cache
def start_pause_server() -> str:
    """Start the server on a free port of 127.0.0.1, once per process; returns its base URL.

    It writes nothing and ends with the process.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _PauseSwitch)
    Thread(target=server.serve_forever, name="demo-pause-switch", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
