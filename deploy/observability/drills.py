"""`make drill ALERT=name`: the whole system runs, the alert's cause happens, and a Prometheus with
our rules, unchanged, shows when it fires. `ALERT=all` plays all of them, those together that do not
disturb each other, and takes about an hour. It prints the seconds from the cause to the alert.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

import aio_pika
import httpx
from deploy.observability.check import prometheus
from rich.console import Console

from common.contracts.event import CONTENT_TYPE
from devstack import clocks
from devstack.addresses import DevstackError, free_ports
from devstack.demo.environment import scene
from devstack.demo.main import OPTIONS
from devstack.endpoints import SECRETS
from devstack.processes.system import PROCESSES, System, introduce
from devstack.servers.rabbitmq import PrivateNode, broker_of_our_own
from devstack.webhook import signature, subscription_created

_PATIENCE_SECONDS: Final = 3600
_SETTLED_SECONDS: Final = 20


@dataclass(frozen=True)
class Scene:
    """What drills act on."""

    system: System
    broker: PrivateNode
    http: httpx.AsyncClient

    async def send(self, secret: str = SECRETS["stripe"], *, live: bool = False) -> None:
        """Send a new customer's webhook to the gateway, signed with `secret`; a redelivery of it,
        too, which has no effect."""
        event = subscription_created(uuid4().hex[:12]) | {"livemode": live}
        body = json.dumps(event).encode()
        url = f"{self.system.layout.url('webhook-gateway')}/webhooks/stripe"
        headers = {"Stripe-Signature": signature(body, secret)}
        for _ in range(2):
            await self.http.post(url, content=body, headers=headers)

    async def behave(self, mode: str) -> None:
        """Change how the back end's stand-in behaves."""
        url = f"{self.system.layout.url('sandbox-backend')}/_behaviour"
        (await self.http.put(url, json={"mode": mode})).raise_for_status()


Cause = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Drill:
    """`cause` lasts until the alert fires. One system serves the drills of an `act`. `seconds` is
    what was measured, with a scrape every two seconds; 0 if it was not."""

    description: str
    cause: Cause
    act: str
    seconds: int = 0


async def _webhooks(scene: Scene) -> None:
    while True:
        await scene.send()
        await asyncio.sleep(0.5)


async def _forged(scene: Scene) -> None:
    while True:
        await scene.send("whsec_of_somebody_else")
        await asyncio.sleep(0.5)


async def _of_live_mode(scene: Scene) -> None:
    while True:
        await scene.send(live=True)
        await asyncio.sleep(0.1)


async def _refused_by_the_backend(scene: Scene) -> None:
    await scene.behave("refuse")
    await _webhooks(scene)


async def _backend_fails(scene: Scene) -> None:
    await scene.behave("fail")
    await _webhooks(scene)


def _stopped(process: str) -> Cause:
    async def stop(scene: Scene) -> None:
        await asyncio.to_thread(scene.system.processes[process].stop)

    return stop


def _silent(process: str) -> Cause:
    async def pause(scene: Scene) -> None:
        scene.system.processes[process].kill(signal.SIGSTOP)

    return pause


async def _broker_killed(scene: Scene) -> None:
    await asyncio.to_thread(scene.broker.kill)
    await _webhooks(scene)


async def _nobody_works(scene: Scene) -> None:
    await _stopped("subscription-worker")(scene)
    await _webhooks(scene)


async def _clock_ahead(scene: Scene) -> None:
    name = "orders-worker"
    await _stopped(name)(scene)
    spec = scene.system.layout.spec(name)
    scene.system.start_one(replace(spec, env={**spec.env, **clocks.ahead("+90s")}))


async def _invalid_endpoints(scene: Scene) -> None:
    with scene.system.layout.endpoints.open("a") as file:
        file.write("\n[[endpoint]\n")


async def _undecodable(scene: Scene) -> None:
    connection = await aio_pika.connect(scene.system.layout.rabbitmq_url)
    async with connection, connection.channel() as channel:
        payments = await channel.get_exchange("payments", ensure=False)
        while True:
            message = aio_pika.Message(b"no event", content_type=CONTENT_TYPE)
            await payments.publish(message, routing_key="payment.succeeded")
            await asyncio.sleep(2)


_TRAFFIC, _SECRET, _BACKEND, _BROKER, _GATEWAY, _LATE = (
    "traffic", "secret", "backend", "broker", "gateway", "late",
)  # fmt: skip
DRILLS: Final[Mapping[str, Drill]] = {
    "WebhooksRefused": Drill("webhooks are signed with another secret", _forged, _SECRET),
    "WebhooksNotServed": Drill("webhooks are of live mode", _of_live_mode, _TRAFFIC, 603),
    "ProvidersSendAgain": Drill("each webhook is sent twice", _webhooks, _TRAFFIC, 904),
    "EndpointsFileInvalid": Drill(
        "a line of the file is broken", _invalid_endpoints, _TRAFFIC, 307
    ),
    "ActivationFailing": Drill("messages can't be decoded", _undecodable, _TRAFFIC, 304),
    "DeadLettersOpen": Drill("messages can't be decoded", _undecodable, _TRAFFIC, 311),
    "ProvisioningFailing": Drill(
        "the back end answers 422", _refused_by_the_backend, _TRAFFIC, 607
    ),
    "QueueWithoutConsumer": Drill(
        "bank-sync's worker is stopped", _stopped("bank-sync-worker"), _TRAFFIC, 309
    ),
    "ProcessMissing": Drill(
        "payouts' worker is stopped", _stopped("payouts-worker"), _TRAFFIC, 304
    ),
    "ProcessUnreachable": Drill("orders' API is paused", _silent("orders-api"), _TRAFFIC, 304),
    "ClockWrong": Drill("the clock of orders' worker is 90 s ahead", _clock_ahead, _TRAFFIC, 313),
    "MessagesRetried": Drill("the back end answers 503", _backend_fails, _BACKEND),
    "CircuitOpen": Drill("the back end answers 503", _backend_fails, _BACKEND),
    "OrganizationsWaiting": Drill("the back end answers 503", _backend_fails, _BACKEND),
    "QueuesNotWatched": Drill(
        "operations' worker is stopped", _stopped("operations-worker"), _BACKEND
    ),
    "BrokerUnreachable": Drill("the broker is killed", _broker_killed, _BROKER),
    "OutboxLag": Drill("the broker is killed", _broker_killed, _BROKER),
    "WebhooksAvailableBudget1h": Drill("the broker is killed", _broker_killed, _BROKER),
    "WebhooksAvailableBudget6h": Drill("the broker is killed", _broker_killed, _BROKER),
    "GatewayAway": Drill("the gateway is stopped", _stopped("webhook-gateway"), _GATEWAY),
    "QueueGrowing": Drill("subscription's worker is stopped", _nobody_works, _LATE),
}


async def _play(scene: Scene, prometheus_url: str, names: Sequence[str]) -> Mapping[str, float]:
    """Cause these alerts; return the seconds until each fired, without those that did not."""
    took: dict[str, float] = {}
    causes = {DRILLS[name].cause for name in names}
    started = time.monotonic()
    running = [asyncio.create_task(_repeatedly(cause, scene)) for cause in causes]
    try:
        while took.keys() < set(names) and time.monotonic() - started < _PATIENCE_SECONDS:
            for name in await _firing(scene.http, prometheus_url) & set(names) - took.keys():
                took[name] = time.monotonic() - started
                print(f"{name}: fires after {took[name]:.0f} s", flush=True)
            await asyncio.sleep(2)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return took


async def _repeatedly(cause: Cause, scene: Scene) -> None:
    """One cause can take away what another one calls."""
    while True:
        try:
            return await cause(scene)
        except httpx.TransportError:
            await asyncio.sleep(1)


async def _firing(http: httpx.AsyncClient, prometheus_url: str) -> set[str]:
    alerts = (await http.get(f"{prometheus_url}/api/v1/alerts")).json()["data"]["alerts"]
    return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


def main(alert: str) -> int:
    chosen = list(DRILLS) if alert == "all" else alert.split(",")
    if unknown := [each for each in chosen if each not in DRILLS]:
        names = ", ".join(DRILLS)
        print(f"no drill for {', '.join(unknown)}; there are some for {names}; `all` plays them")
        return 2
    took: dict[str, float] = {}
    for act in dict.fromkeys(DRILLS[name].act for name in chosen):
        took |= _act(act, [name for name in chosen if DRILLS[name].act == act])
    silent = [name for name in chosen if name not in took]
    print(f"fired: {json.dumps({name: round(took[name]) for name in took})}")
    print(f"silent: {', '.join(silent) or 'none'}")
    return 1 if silent else 0


def _act(act: str, names: Sequence[str]) -> Mapping[str, float]:
    (metrics_port,) = free_ports(1)
    with broker_of_our_own(metrics_port=metrics_port) as broker:
        if broker is None:
            raise DevstackError("drills need a rabbitmq-server of this machine, no RABBITMQ_URL")
        with (
            scene(f"drill-{act}", PROCESSES, Console(), **OPTIONS) as (system, _),
            prometheus(system.layout, metrics_port) as url,
        ):
            return asyncio.run(_cause_and_watch(system, broker, url, names))


async def _cause_and_watch(
    system: System, broker: PrivateNode, url: str, names: Sequence[str]
) -> Mapping[str, float]:
    introduce(system.layout)
    async with httpx.AsyncClient(timeout=30) as http:
        at = Scene(system, broker, http)
        for _ in range(5):
            await at.send()
        await asyncio.sleep(_SETTLED_SECONDS)
        if false := await _firing(http, url) & set(names):
            raise DevstackError(f"fires before its cause: {', '.join(sorted(false))}")
        print(f"causing {', '.join(names)} ...", flush=True)
        return await _play(at, url, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
