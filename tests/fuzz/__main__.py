"""`make fuzz [INPUTS=100000] [SEED=...]`: hostile input over real sockets, to running processes.

The gateway and the console get calls that Hypothesis makes up, the APIs what schemathesis makes of
their OpenAPI documents, and each endpoint the largest bodies of the costliest shapes. No answer may
be a 5xx, no forgery may be taken, no memory may grow beyond what a pod has, and no turn of an event
loop may keep others waiting for long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from devstack.addresses import DevstackError
from devstack.endpoints import SECRETS
from devstack.processes.process import Process
from devstack.processes.stack import Stack
from devstack.processes.system import System, create_databases, migrate, plan
from devstack.tokens import DevKeys
from devstack.webhook import signature, subscription_created
from fuzz.calls import Call, bodies, hostile, proved, unproved
from fuzz.console import fuzz_console
from fuzz.sizes import longest_hold, peak_bytes, send_large
from fuzz.wire import send_all

_APIS = (
    "subscription-api", "provisioning-api", "payouts-api", "bank-sync-api", "orders-api",
    "operations-api",
)  # fmt: skip
_IDLE = 10_000
_QUESTIONS = 20
_POD_BYTES = 512 * 2**20  # deploy/k8s/base/service/api.yaml
_LONGEST_HOLD_SECONDS = 0.25
_MEMORY_GROWTH = 1.25
_SHARE_OF_APIS = 0.05


class Found(Exception):
    """An answer that nobody may get."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--idle", type=int, default=_IDLE)
    parser.add_argument(
        "--hold", type=float, default=_LONGEST_HOLD_SECONDS, help="seconds; more where others work"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}; replay with `make fuzz SEED={options.seed}`", flush=True)
    with _running() as system:
        keys = DevKeys(system.logs / "keys")
        gateway = system.processes["webhook-gateway"]
        port = system.layout.ports["webhook-gateway"]
        counts = _fuzz_gateway(gateway, port, options.inputs, options.seed)
        # Before the flood of connections, which is nobody's input.
        _bounded("webhook-gateway", system.layout.url("webhook-gateway"), gateway.pid, options.hold)
        ask = partial(_ask_gateway, port)
        _slow_and_idle("webhook-gateway", port, "/webhooks/stripe", options.idle, ask)
        for name in _APIS:
            url = system.layout.url(name)
            share = int(options.inputs * _SHARE_OF_APIS)
            counts[f"{name} inputs"] = _fuzz_api(url, keys, share, options.seed)
            counts[f"{name} large inputs"] = _fuzz_sizes(url, keys)
            port, idle = system.layout.ports[name], options.idle // 20
            _slow_and_idle(name, port, "/console/login", idle, partial(_ask_api, url))
        counts["console inputs"] = _fuzz_console(system, keys, options)
        for name in _APIS:
            _bounded(name, system.layout.url(name), system.processes[name].pid, options.hold)
        forged = _effects_of_forgeries(system)
        if forged:
            raise Found(f"{forged} payments were believed although nobody proved them")
    for what, count in sorted(counts.items()):
        print(f"  {what:32} {count:>8}")
    total = sum(count for what, count in counts.items() if what.endswith("inputs"))
    print(f"{total} inputs: no 5xx, no forgery taken, memory and waits bounded")
    return 0


def _fuzz_gateway(gateway: Process, port: int, inputs: int, number: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    memory: list[int] = []
    per_example = len(hostile(b"", "", 0)) + 2 * len(proved(b"")) + len(unproved(b""))
    noise = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=80)

    @seed(number)
    @settings(
        max_examples=-(-inputs // per_example),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(body=bodies, noise=noise, position=st.integers(0, 500))
    def attack(body: bytes, noise: str, position: int) -> None:
        calls = hostile(body, noise, position) + proved(body) + proved(body) + unproved(body)
        for call, status in zip(calls, asyncio.run(send_all(port, calls)), strict=True):
            _judge(call, status)
            counts[f"answered {status}"] += 1
        counts["webhook-gateway inputs"] += len(calls)
        memory.append(_resident(gateway.pid))

    attack()
    settled = memory[len(memory) // 4]
    if memory[-1] > settled * _MEMORY_GROWTH:
        raise Found(f"the gateway's memory grew from {settled} to {memory[-1]} KiB")
    print(f"the gateway's memory: {settled} KiB after a quarter, {memory[-1]} KiB at the end")
    return counts


def _judge(call: Call, status: int) -> None:
    accepted = 200 <= status < 300
    if status >= 500:
        raise Found(f"{status} to {call}")
    if call.genuine is False and accepted:
        raise Found(f"a forgery was taken: {call}")
    if call.genuine is True and not accepted and not _no_stripe_body(call):
        raise Found(f"{status} to a genuine call: {call}")


def _no_stripe_body(call: Call) -> bool:
    """Stripe's SDK signs and checks text, so bytes that are none are refused."""
    try:
        call.body.decode()
    except UnicodeDecodeError:
        return call.provider == "stripe"
    return False


def _slow_and_idle(name: str, port: int, path: str, idle: int, ask: Callable[[int], int]) -> None:
    """Heads and bodies that trickle, and connections that say nothing: others go on. `ask` is told
    the number of its question, and returns the status of the answer."""
    begun = f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode()
    with ExitStack() as exit_:
        held = 0
        for _ in range(idle):
            try:
                held_socket = socket.create_connection(("127.0.0.1", port), timeout=5)
            except OSError:
                break  # the limit of this machine or process, not of ours
            exit_.callback(held_socket.close)
            held += 1
            if held % 3 == 0:
                held_socket.sendall(begun)
            elif held % 3 == 1:
                held_socket.sendall(begun + b"Content-Length: 9\r\n\r\n{")
        started = time.monotonic()
        for number in range(_QUESTIONS):
            status = ask(number)
            if status != 200:
                raise Found(f"{status} of {name} while {held} connections were idle")
        took = (time.monotonic() - started) / _QUESTIONS
        print(f"  {name:32} answers in {took * 1000:.0f} ms beside {held} half-open connections")


def _ask_gateway(port: int, number: int) -> int:
    body = json.dumps(subscription_created(f"beside-{number}")).encode()
    headers = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
    url = f"http://127.0.0.1:{port}/webhooks/stripe"
    return httpx.post(url, content=body, headers=headers, timeout=30).status_code


def _ask_api(url: str, _: int) -> int:
    return httpx.get(f"{url}/healthz", timeout=30).status_code


def _fuzz_api(url: str, keys: DevKeys, inputs: int, number: int) -> int:
    """Run schemathesis; returns how many cases it tried."""
    ended = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{url}/openapi.json",
            "--header",
            f"Authorization: Bearer {keys.token('admin')}",
            "--checks",
            "not_a_server_error",
            "--max-examples",
            str(max(1, inputs // 20)),
            "--seed",
            str(number),
            "--no-color",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    cases = re.search(r"(\d+) generated", ended.stdout)
    if ended.returncode != 0 or cases is None:
        raise Found(f"schemathesis on {url}:\n{ended.stdout[-4000:]}{ended.stderr[-2000:]}")
    return int(cases[1])


def _fuzz_sizes(url: str, keys: DevKeys) -> int:
    sent, bad = asyncio.run(send_large(url, keys.token("admin")))
    if bad:
        raise Found("large bodies:\n" + "\n".join(bad[:10]))
    return sent


def _bounded(name: str, url: str, pid: int, most_held: float) -> None:
    """In memory, and in how long one caller's input keeps others waiting."""
    held, peak = longest_hold(url), peak_bytes(pid)
    print(f"  {name:32} {peak // 2**20} MiB at the most, no turn held longer than {held:g} s")
    if peak > _POD_BYTES:
        raise Found(f"{name} took {peak // 2**20} MiB, a pod has {_POD_BYTES // 2**20}")
    if held > most_held:
        raise Found(f"one turn of {name}'s event loop took more than {most_held} s")


def _fuzz_console(system: System, keys: DevKeys, options: argparse.Namespace) -> int:
    share = int(options.inputs * _SHARE_OF_APIS)
    url = system.layout.url("operations-api")
    made, bad = fuzz_console(url, keys.token("admin"), share, options.seed)
    if bad:
        raise Found("the console:\n" + "\n".join(bad[:10]))
    return made


def _effects_of_forgeries(system: System) -> int:
    """Payments that the gateway's worker told of, although all hints were made up."""
    text = httpx.get(f"{system.layout.url('webhook-gateway-worker')}/metrics").text
    told = re.findall(r'paybus_payment_polls_total\{outcome="succeeded".*\} (\S+)', text)
    return sum(int(float(each)) for each in told)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


@contextmanager
def _running() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="paybus-fuzz-") as folder, Stack() as stack:
        logs = Path(folder)
        layout = plan(
            stack,
            virtual_host="fuzz",
            databases=create_databases(stack, "fuzz_"),
            keys=DevKeys(logs / "keys"),
            prefer_ports=False,
            extra_env={"LOG_LEVEL": "WARNING"},
        )
        migrate(layout, logs)
        system = System(stack, layout, logs)
        try:
            sandbox = ["sandbox-providers", "sandbox-backend", "sandbox-stripe"]
            gateway = ["webhook-gateway", "webhook-gateway-worker"]
            system.start([*sandbox, *gateway, *_APIS], restart=False)
            yield system
        finally:
            system.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Found as found:
        sys.exit(f"FOUND: {found}")
    except DevstackError as error:
        sys.exit(f"make fuzz: {error}")
