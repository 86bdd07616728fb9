"""A directory: a Stripe emulator's own signed webhooks, through to provisioned organizations.

Customers, plans and subscriptions are created with the official SDK; the rest is Paybus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import stripe
from rich.table import Table

from common.contracts.event import Event
from devstack.demo.base import Part, Stage, everything
from devstack.demo.report import Check, table_of_checks, table_of_times

# Six webhooks each. The emulator, the SDK and all of Paybus share this machine's cores; a higher
# rate would measure the queue in front of the emulator.
_PER_SECOND = 20


class Directory(Part):
    def __init__(self, stage: Stage, wanted: int) -> None:
        super().__init__(stage)
        self._wanted = wanted
        self._created = 0
        self._webhooks: set[str] = set()
        self._received: dict[str, datetime] = {}
        self._active: dict[str, float] = {}
        self._provisioned: dict[str, float] = {}

    def hear(self, event: Event[Any]) -> None:
        if event.source == "/webhook-gateway/stripe":
            self._webhooks.add(event.id)
            self._received[event.id] = event.recordedtime
            return
        webhook = self._received.get(event.correlationid)
        if webhook is None:
            return
        seconds = (event.recordedtime - webhook).total_seconds()
        if event.type == "subscription.activated":
            self._active.setdefault(event.subject, seconds)
        elif event.type == "organization.provisioned":
            self._provisioned.setdefault(event.subject, seconds)
        elif event.type == "organization.failed":
            self.stage.broken = f"organization {event.subject} failed: {event.data.error}"

    async def act(self) -> None:
        stripe_url = self.stage.url("sandbox-stripe")
        client = stripe.StripeClient(
            "sk_test_paybus",
            base_addresses={"api": stripe_url},
            http_client=stripe.HTTPXClient(),
            max_network_retries=2,
        )
        plan = {"id": "starter", "amount": 1500, "currency": "eur", "interval": "month"}
        await client.v1.plans.create_async({**plan, "product": {"name": "Starter"}})  # type: ignore[typeddict-item]

        async def subscribe(number: int) -> None:
            await _subscribe(client, number)
            self._created += 1

        async with asyncio.TaskGroup() as customers:
            for number in range(self._wanted):
                customers.create_task(subscribe(number))
                await asyncio.sleep(1 / _PER_SECOND)

    async def done(self) -> bool:
        return len(self._provisioned) >= self._wanted

    def counts(self) -> Mapping[str, tuple[int, int | None]]:
        return {
            "created in Stripe": (self._created, self._wanted),
            "webhooks accepted": (len(self._webhooks), None),
            "active subscriptions": (len(self._active), self._wanted),
            "provisioned organizations": (len(self._provisioned), self._wanted),
        }

    async def checks(self) -> list[Check]:
        async with self.stage.client("viewer") as http:
            subscriptions = f"{self.stage.url('subscription-api')}/v1/subscriptions"
            integrations = f"{self.stage.url('provisioning-api')}/v1/integrations"
            active = await everything(http, subscriptions, status="active")
            provisioned = await everything(http, integrations, status="provisioned")
            books = (await http.get(f"{self.stage.url('sandbox-backend')}/_books")).json()
        doubles = sum(count - 1 for count in books["created"].values())
        admins = [len(users) for users in books["users"].values()]
        return [
            Check("created in Stripe", self._wanted, self._created),
            Check("active subscriptions", self._wanted, len(active)),
            Check("provisioned integrations", self._wanted, len(provisioned)),
            Check("organizations in the back end", self._wanted, len(books["organizations"])),
            Check("organizations created twice", 0, doubles),
            Check("admin users", self._wanted, sum(admins)),
        ]

    async def tables(self, checks: list[Check]) -> list[Table]:
        title = f"Stripe: {self._wanted} subscriptions, {len(self._webhooks)} webhooks"
        times = {
            "active subscription": self._active.values(),
            "provisioned organization": self._provisioned.values(),
        }
        when = f"from the webhook's arrival, at {_PER_SECOND} new subscriptions a second"
        return [table_of_checks(title, checks), table_of_times(when, times)]


async def _subscribe(client: stripe.StripeClient, number: int) -> None:
    """Subscribe a new customer, as a shop does."""
    email = f"owner-{number}@example.com"
    name = f"Organization {number}"
    customer = await client.v1.customers.create_async({"email": email, "name": name})
    # The number of a test card. The SDK's types omit it because only browsers should send one.
    card: Any = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    method = await client.v1.payment_methods.create_async({"type": "card", "card": card})
    await client.v1.payment_methods.attach_async(method.id, {"customer": customer.id})
    await client.v1.customers.update_async(
        customer.id, {"invoice_settings": {"default_payment_method": method.id}}
    )
    await client.v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"plan": "starter"}],
            "metadata": {"email": email, "organization": name},
        }
    )
