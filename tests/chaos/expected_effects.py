"""Compares the expected effects of the accepted webhooks with the actual ones."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import aio_pika
import httpx
import psycopg
from aio_pika.exceptions import ChannelNotFoundEntity

from chaos.effect_recorder import QUEUE as LEDGER
from chaos.load import Webhooks
from common.contracts import topology
from common.contracts.retry_ladder import RetryLadder

# Short retries, so that a scenario ends; the delays themselves have tests of their own.
LADDER = "1s,2s,5s"

_GATEWAY = "/webhook-gateway/stripe"


@dataclass
class Verdict:
    """`missing` and `doubled` name effects; `unexplained` names dead letters; `waiting` counts
    unprocessed messages and rows."""

    effects: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not (self.missing or self.doubled or self.unexplained or self.waiting)

    def count(self, what: str, expected: Iterable[str], found: Iterable[str]) -> None:
        """Require that every expected name is found exactly once, and no other."""
        times = Counter(found)
        names = set(expected)
        self.effects += len(names & times.keys())
        self.missing += [f"{what} {name}" for name in sorted(names - times.keys())]
        self.doubled += [f"{what} {name} ({n} times)" for name, n in times.items() if n > 1]
        self.doubled += [f"{what} {name} (of nothing)" for name in sorted(times.keys() - names)]


class Books:
    """Reads the services' databases, the ledger's, the backend API's books and the broker's queues.
    `consumed` names the services with workers. The queues of others retain their messages, such as
    the refill request after a queue of the ladder was deleted."""

    def __init__(
        self,
        *,
        databases: Mapping[str, str],
        amqp_url: str,
        management_url: str,
        backend: str,
        consumed: Container[str],
    ) -> None:
        self._queues = [
            *(each.name for each in topology.QUEUES if each.name.partition(".")[0] in consumed),
            LEDGER.name,
        ]
        self._databases = {k: v.replace("+psycopg", "") for k, v in databases.items()}
        self._amqp = amqp_url
        self._management = management_url
        self._backend = backend

    def verdict(self, sent: Webhooks) -> Verdict:
        verdict = Verdict(waiting=self._waiting())
        self._webhooks(sent, verdict)
        self._subscriptions(sent, verdict)
        self._organizations(sent, verdict)
        self._dead_letters(sent, verdict)
        return verdict

    def _webhooks(self, sent: Webhooks, verdict: Verdict) -> None:
        """Each accepted webhook has one row in the ledger and one in subscription's inbox."""
        events = {f"evt_{name}" for name in sent.subscriptions if name != "killer"}
        events |= {f"evt_in_{name}" for name in sent.invoices}
        ledger = self._sql("ledger", "SELECT id FROM effects WHERE source = %s", _GATEWAY)
        # Poisonous messages fail in the subscription service, not in the ledger.
        verdict.count("webhook", events | sent.poison, (id_ for (id_,) in ledger))
        inbox = self._sql(
            "subscription", "SELECT id FROM inbox WHERE queue = 'subscription.billing'"
        )
        verdict.count("inbox row", events | sent.killers, (id_ for (id_,) in inbox))
        paid = self._sql("subscription", "SELECT provider_payment_id FROM payments WHERE paid")
        verdict.count("payment", (f"in_{name}" for name in sent.invoices), (id_ for (id_,) in paid))

    def _subscriptions(self, sent: Webhooks, verdict: Verdict) -> None:
        """Each is active; every version of it and of its customer was published exactly once."""
        active = self._sql(
            "subscription",
            "SELECT provider_subscription_id FROM subscriptions WHERE status = 'active'",
        )
        names = [f"sub_{name}" for name in sent.subscriptions]
        verdict.count("active subscription", names, (id_ for (id_,) in active))
        # Read publishes before rows; an event published in between would have no row.
        activated = self._sql(
            "ledger", "SELECT subject FROM effects WHERE type = 'subscription.activated'"
        )
        rows = self._sql("subscription", "SELECT id FROM subscriptions")
        verdict.count("activation", (id_ for (id_,) in rows), (id_ for (id_,) in activated))
        for table, types in (("subscriptions", "subscription.%"), ("customers", "customer.%")):
            told = self._sql(
                "ledger",
                "SELECT subject, sequence FROM effects"
                " WHERE type LIKE %s AND sequence IS NOT NULL",  # a job's message has none
                types,
            )
            rows = self._sql("subscription", f"SELECT id, version FROM {table}")  # noqa: S608
            verdict.count(
                f"telling of {table}",  # every written version, once
                (f"{id_} v{number}" for id_, last in rows for number in range(1, last + 1)),
                (f"{subject} v{sequence}" for subject, sequence in told),
            )

    def _organizations(self, sent: Webhooks, verdict: Verdict) -> None:
        rows = self._sql(
            "provisioning", "SELECT customer_id FROM integrations WHERE status = 'provisioned'"
        )
        customers = self._sql(
            "subscription",
            "SELECT id FROM customers WHERE provider_customer_id = ANY(%s)",
            [f"cus_{name}" for name in sent.subscriptions],
        )
        verdict.count("integration", (id_ for (id_,) in customers), (id_ for (id_,) in rows))
        books: dict[str, Any] = httpx.get(f"{self._backend}/_books", timeout=30).json()
        wanted = [id_ for (id_,) in self._sql("provisioning", "SELECT id FROM integrations")]
        created = Counter(books["created"])
        verdict.count("organization", wanted, created.elements())
        organizations = [each["id"] for each in books["organizations"]]
        admins = [id_ for id_, users in books["users"].items() for _ in users]
        verdict.count("admin", organizations, admins)

    def _dead_letters(self, sent: Webhooks, verdict: Verdict) -> None:
        expected = {
            "subscription.billing.dead": sent.poison,
            LEDGER.dead: sent.killers,
        }
        for queue in (*topology.QUEUES, topology.WEBHOOKS, LEDGER):
            found = [*self._dead(queue.dead), *self._collected(queue.name)]
            explained = expected.get(queue.dead, set())
            verdict.count(
                f"dead letter in {queue.dead}",
                explained,
                (id_ for id_ in found if id_ in explained),
            )
            verdict.unexplained += [
                f"{id_} in {queue.dead}" for id_ in found if id_ not in explained
            ]

    def _collected(self, queue: str) -> list[str]:
        """Return what operations has taken out of the broker, where it runs."""
        query = "SELECT event_id FROM dead_letters WHERE queue = %s"
        return [id_ for (id_,) in self._sql("operations", query, [queue])]

    def _dead(self, queue: str) -> list[str]:
        answer = httpx.post(
            f"{self._management}/api/queues/{self._virtual_host()}/{queue}/get",
            json={"count": 100_000, "ackmode": "ack_requeue_true", "encoding": "auto"},
            timeout=30,
        )
        return [_id(each["payload"]) for each in answer.raise_for_status().json()]

    def delete_queue(self, name: str) -> None:
        url = f"{self._management}/api/queues/{self._virtual_host()}/{name}"
        httpx.delete(url, timeout=30).raise_for_status()

    def unacknowledged(self) -> int:
        """Return the number of messages that consumers of queues hold, by the management figures,
        which are some seconds old. Streams are excluded: their readers acknowledge without removing
        anything."""
        answer = httpx.get(f"{self._management}/api/queues/{self._virtual_host()}", timeout=30)
        queues = answer.raise_for_status().json()
        return sum(
            queue.get("messages_unacknowledged", 0) for queue in queues if queue["type"] != "stream"
        )

    def _virtual_host(self) -> str:
        return quote(urlsplit(self._amqp).path[1:], safe="")

    def _waiting(self) -> dict[str, int]:
        """Count the rows in outboxes and the messages in queues and on the retry ladder."""
        found = {
            f"outbox of {service}": self._sql(service, "SELECT count(*) FROM outbox")[0][0]
            for service in self._databases
        }
        found |= asyncio.run(self._depths())
        return {name: count for name, count in found.items() if count}

    async def _depths(self) -> dict[str, int]:
        names = [*self._queues]
        names += [rung.queue for rung in RetryLadder.parse(LADDER).rungs]
        depths: dict[str, int] = {}
        async with await aio_pika.connect(self._amqp, timeout=10) as connection:
            for name in names:
                try:
                    async with connection.channel() as channel:
                        queue = await channel.declare_queue(name, passive=True)
                except ChannelNotFoundEntity:
                    depths[f"{name}, which is gone,"] = 1  # until a process declares it again
                else:
                    depths[name] = queue.declaration_result.message_count or 0
        return depths

    def _sql(self, service: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._databases[service], connect_timeout=10) as connection:
            return connection.execute(query, parameters or None).fetchall()


def _id(payload: str) -> str:
    try:
        return str(json.loads(payload)["id"])
    except (ValueError, LookupError, TypeError):
        return f"something that is no event: {payload[:60]!r}"
