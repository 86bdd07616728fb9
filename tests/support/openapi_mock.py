"""A server made of an OpenAPI 3.0 file: it checks each request against its schema, and answers with
the file's own example, checked likewise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema_rs
import yaml

_JSON = "application/json"


@dataclass
class Mock:
    """`called` are the paths, `faults` what was wrong with calls or examples."""

    url: str = ""
    called: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@contextmanager
def serve(file: Path) -> Iterator[Mock]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spec = _nullable(yaml.load(file.read_text(), Loader=loader))  # noqa: S506 - both are safe
    mock = Mock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            mock.called.append(self.path)
            operation = spec["paths"].get(self.path, {}).get("post")
            if operation is None:
                mock.faults.append(f"{self.path} is not in the file")
                self.send_error(404)
                return
            asked = operation["requestBody"]["content"][_JSON]["schema"]
            mock.faults += _faults(spec, asked, body, f"request of {self.path}")
            said = operation["responses"]["200"]["content"][_JSON]
            example = next(iter(said["examples"].values()))["value"]
            text = json.dumps(example, default=str).encode()
            self.send_response(200)
            self.send_header("Content-Type", _JSON)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mock.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield mock
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _faults(spec: Any, schema: Any, body: Any, where: str) -> list[str]:
    root = {**schema, "components": spec["components"]}
    validator = jsonschema_rs.Draft4Validator(root)
    return [f"{where}: {error.message}" for error in validator.iter_errors(body)]


def _nullable(node: Any) -> Any:
    """JSON Schema has no `nullable`."""
    if isinstance(node, list):
        return [_nullable(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _nullable(value) for key, value in node.items()}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return made
