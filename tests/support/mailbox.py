"""A webhook receiver that stores each webhook as received."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Mailbox:
    """Received webhooks, each with its path."""

    url: str
    webhooks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def of(self, path: str) -> list[dict[str, Any]]:
        return [body for at, body in list(self.webhooks) if at == path]


@contextmanager
def listening() -> Iterator[Mailbox]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            mailbox.webhooks.append((self.path, json.loads(raw)))
            self.send_response(200)
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mailbox = Mailbox(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield mailbox
    finally:
        server.shutdown()
        server.server_close()
