"""The largest bodies of the costliest shapes, for every endpoint that accepts one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from common.http.middleware import MOST_BODY_BYTES, MOST_LARGE_BODY_BYTES, MOST_VALUES
from payouts.api.payouts import LARGE_BODIES

_AT_ONCE = 4
_ANY_ID = "x"
_ALLOWED = MOST_VALUES - 100


def _filled(pattern: str, size: int) -> str:
    return pattern * (size // len(pattern.encode()))


def _json_bodies(names: Sequence[str], most: int) -> Iterator[bytes]:
    """Yield bodies of at most `most` bytes; `names` are the fields that the endpoint knows."""
    most -= 200
    yield _filled("[", most).encode()
    yield _filled('{"a":', most).encode() + b"1"
    yield b"[" + _filled("0,", most).encode() + b"0]"
    yield b"[" + _filled("{},", most).encode() + b"{}]"
    for keys in (_ALLOWED, most // 12):
        yield ("{" + ",".join(f'"k{number}":0' for number in range(keys)) + "}").encode()
    yield b'{"a":' + b"9" * most + b"}"
    yield b'{"a":"' + _filled("\\u0041", most).encode() + b'"}'
    yield b"\xff\xfe" * (most // 2)
    for hostile in ("4242 ", "a.a.", "DE12 ", "a@b."):
        yield json.dumps(dict.fromkeys(names, _filled(hostile, most // (len(names) + 1)))).encode()
    for name in names:
        for item in ("0", "{}", '"x"'):
            for count in (_ALLOWED, most // (len(item) + 1)):
                items = ",".join([item] * count)
                yield f'{{"{name}":[{items}]}}'.encode()
        yield f'{{"{name}":"{_filled("4242 ", most)}"}}'.encode()


def _fields(operation: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    content = operation["requestBody"]["content"]
    schema = next(iter(content.values())).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return sorted(schema.get("properties", {}))


def most_of(path: str) -> int:
    return MOST_LARGE_BODY_BYTES if path in LARGE_BODIES else MOST_BODY_BYTES


async def send_large(url: str, token: str) -> tuple[int, list[str]]:
    """Send large bodies to an API. Returns their number, and the unacceptable responses."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "large"}
    bad: list[str] = []
    sent = 0
    places = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
        document = (await http.get("/openapi.json")).raise_for_status().json()

        async def send(method: str, path: str, body: bytes, kind: str) -> None:
            async with places:
                said = {"Content-Type": kind}
                try:
                    answer = await http.request(method, path, content=body, headers=said)
                except (httpx.ReadError, httpx.WriteError):
                    if len(body) > MOST_BODY_BYTES:
                        return  # a body that is too large is not read to its end
                    raise
            if answer.is_server_error or (len(body) > most_of(path) and answer.status_code != 413):
                bad.append(f"{answer.status_code} to {method} {path}: {body[:60]!r} ({len(body)})")

        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if "requestBody" not in operation:
                    continue
                kind = next(iter(operation["requestBody"]["content"]))
                to = re.sub(r"\{[^}]*\}", _ANY_ID, path)
                most = most_of(to)
                bodies = [*_json_bodies(_fields(operation, document), most), b" " * (most + 1)]
                sent += len(bodies)
                await asyncio.gather(*(send(method, to, body, kind) for body in bodies))
        for form in ("/console/login", "/console/dead-letters/act"):
            if "operations" not in document["info"]["title"]:
                break
            most = MOST_BODY_BYTES
            bodies = [_filled(each, most).encode() for each in ("a=b&", "a", "%41", "csrf=%41&")]
            bodies.append(b"x" * (most + 1))
            sent += len(bodies)
            kind = "application/x-www-form-urlencoded"
            await asyncio.gather(*(send("POST", form, body, kind) for body in bodies))
    return sent, bad


def longest_hold(url: str) -> float:
    """Return the upper bound, in seconds, of the longest turn of the process's event loop."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.findall(r'paybus_event_loop_held_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    most = float(found[-1][1])
    return next(float(bound) for bound, count in found if float(count) == most)


def peak_bytes(pid: int) -> int:
    """Return the peak memory of the process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kib) * 1024
