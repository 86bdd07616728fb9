"""A server generated from an OpenAPI 3.0 file. It validates each request against its schema and
responds with the file's example, or else with a sample that the schema allows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs
import yaml

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_SIMPLE = {"integer": 1, "number": 1, "boolean": False, "string": "x"}


@dataclass
class Mock:
    """`called` are the operations, such as `POST /v1/customers`; `faults` the violations found in
    requests. `says` are properties that responses contain wherever their schema has them."""

    url: str = ""
    paths: frozenset[str] = frozenset()
    called: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    says: dict[str, Any] = field(default_factory=dict)


@contextmanager
def serve(file: Path, **says: Any) -> Iterator[Mock]:
    spec = _nullable(_read(file))
    patterns = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in spec["paths"]}
    mock = Mock(paths=frozenset(patterns), says=says)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            method = self.command.lower()
            known = next(
                # If both fit, a path without a parameter takes precedence.
                (
                    p
                    for p in sorted(patterns, key=lambda p: "{" in p)
                    if patterns[p].fullmatch(path)
                ),
                None,
            )
            operation = spec["paths"][known].get(method) if known else None
            text = self.rfile.read(int(self.headers["Content-Length"] or 0))
            mock.called.append(f"{self.command} {known or path}")
            if operation is None:
                mock.faults.append(f"{self.command} {path} is not in the file")
                self._send(404, {"error": {"type": "invalid_request_error", "message": "unknown"}})
                return
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                schema = media["schema"]
                body = _form(spec, schema, text.decode()) if kind == _FORM else _loads(text)
                mock.faults.extend(_faults(spec, schema, body, f"request of {path}"))
            said = operation["responses"]["200"]["content"][_JSON]
            examples = said.get("examples")
            self._send(
                200,
                next(iter(examples.values()))["value"]
                if examples
                else _sample(spec, said["schema"], mock.says),
            )

        do_GET = do_POST = do_DELETE = _answer

        def _send(self, status: int, body: Any) -> None:
            text = json.dumps(body, default=str).encode()
            self.send_response(status)
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


def _read(file: Path) -> Any:
    if file.suffix == ".json":
        return json.loads(file.read_text())
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(), Loader=loader)  # noqa: S506 - both are safe


def _faults(spec: Any, schema: Any, body: Any, where: str) -> list[str]:
    root = {**schema, "components": spec["components"]}
    validator = jsonschema_rs.Draft4Validator(root)
    return [f"{where}: {error.message}" for error in validator.iter_errors(body)]


def _loads(text: bytes) -> Any:
    return json.loads(text or b"{}")


def _form(spec: Any, schema: Any, text: str) -> Any:
    """Parse `items[0][price]=gold` as Stripe does: nested, with the types in the schema."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        first, *others = re.findall(r"[^\[\]]+", name)
        place, key = found, first
        for other in others:
            place = place.setdefault(key, {})
            key = other
        place[key] = value
    return _typed(spec, schema, found)


def _typed(spec: Any, schema: Any, value: Any) -> Any:
    schema = _resolved(spec, schema)
    for each in schema.get("anyOf", ()):
        typed = _typed(spec, each, value)
        if not _faults(spec, each, typed, ""):
            return typed
    kind = schema.get("type")
    if kind == "array" and isinstance(value, dict):
        return [_typed(spec, schema["items"], each) for _, each in sorted(value.items())]
    if kind == "object" and isinstance(value, dict):
        known = schema.get("properties", {})
        return {k: _typed(spec, known[k], v) if k in known else v for k, v in value.items()}
    if kind == "boolean" and value in {"true", "false"}:
        return value == "true"
    if kind == "integer" and isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


def _sample(spec: Any, schema: Any, says: Mapping[str, Any]) -> Any:
    """Return the smallest value that the schema allows; lists have one item."""
    schema = _resolved(spec, schema)
    if "anyOf" in schema:
        return _sample(spec, schema["anyOf"][0], says)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            known = schema.get("properties", {})
            request = {*schema.get("required", ()), *(says.keys() & known.keys())}
            return {
                name: says[name] if name in says else _sample(spec, known[name], says)
                for name in sorted(request)
            }
        case "array":
            return [_sample(spec, schema["items"], says)]
        case kind:
            return _SIMPLE.get(kind)


def _resolved(spec: Any, schema: Any) -> Any:
    while "$ref" in schema:
        found = spec
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _nullable(node: Any) -> Any:
    """Convert `nullable`, which JSON Schema lacks, to the type "null"."""
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
