"""Bodies as large as may be, of the shapes that cost most, to every endpoint that takes one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

MOST_BYTES = 4 * 1024 * 1024
_AT_ONCE = 4
_ANY_ID = "x"


def _filled(pattern: str, *, size: int = MOST_BYTES - 200) -> str:
    return pattern * (size // len(pattern.encode()))


def _json_bodies(names: Sequence[str]) -> Iterator[bytes]:
    """`names` are those of the fields that the endpoint knows."""
    yield _filled("[").encode()
    yield (_filled('{"a":', size=1_000_000) + "1").encode()
    yield b"[" + _filled("0,").encode() + b"0]"
    yield b"[" + _filled("{},").encode() + b"{}]"
    yield ("{" + ",".join(f'"k{n}":0' for n in range(250_000)) + "}").encode()
    yield ('{"a":' + "9" * (MOST_BYTES - 200) + "}").encode()
    yield ('{"a":"' + _filled("\\u0041") + '"}').encode()
    yield _filled("\xff\xfe").encode("latin-1")
    for hostile in ("4242 ", "a.a.", "DE12 ", "a@b."):
        yield json.dumps(dict.fromkeys(names, _filled(hostile, size=100_000))).encode()
    for name in names:
        for items in (_filled("0,") + "0", _filled("{},") + "{}", _filled('"x",') + '"x"'):
            yield b'{"' + name.encode() + b'":[' + items.encode() + b"]}"
        yield b'{"' + name.encode() + b'":"' + _filled("4242 ").encode() + b'"}'


def _fields(operation: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    content = operation["requestBody"]["content"]
    schema = next(iter(content.values())).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return sorted(schema.get("properties", {}))


async def send_large(url: str, token: str) -> tuple[int, list[str]]:
    """To the API there. How many it sent, and those whose answer nobody may get."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "large"}
    bad: list[str] = []
    sent = 0
    places = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
        document = (await http.get("/openapi.json")).raise_for_status().json()

        async def send(method: str, path: str, body: bytes, kind: str) -> None:
            async with places:
                said = {"Content-Type": kind}
                answer = await http.request(method, path, content=body, headers=said)
            if answer.is_server_error or (len(body) > MOST_BYTES and answer.status_code != 413):
                bad.append(f"{answer.status_code} to {method} {path}: {body[:60]!r} ({len(body)})")

        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if "requestBody" not in operation:
                    continue
                kind = next(iter(operation["requestBody"]["content"]))
                to = re.sub(r"\{[^}]*\}", _ANY_ID, path)
                bodies = [*_json_bodies(_fields(operation, document)), b" " * (MOST_BYTES + 1)]
                sent += len(bodies)
                await asyncio.gather(*(send(method, to, body, kind) for body in bodies))
        for form in ("/console/login", "/console/letters/act"):
            if "operations" not in document["info"]["title"]:
                break
            bodies = [_filled("a=b&").encode(), _filled("a").encode(), _filled("%41").encode()]
            bodies.append(b"x" * (MOST_BYTES + 1))
            sent += len(bodies)
            kind = "application/x-www-form-urlencoded"
            await asyncio.gather(*(send("POST", form, body, kind) for body in bodies))
    return sent, bad


def longest_hold(url: str) -> float:
    """The bound, in seconds, that no turn of the process's event loop went over."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.findall(r'paybus_event_loop_held_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    most = float(found[-1][1])
    return next(float(bound) for bound, count in found if float(count) == most)


def peak_bytes(pid: int) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kib) * 1024
