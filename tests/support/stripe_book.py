"""A Stripe account's subscriptions as Stripe stores them, and the events that it creates of them.

Statuses and their transitions:
https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses. Events:
https://docs.stripe.com/billing/subscriptions/webhooks; `previous_attributes` have the former value
of each changed attribute, arrays in full. Times are in whole seconds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import stripe as sdk

from support.described import faults
from support.described.stripe_types import shape

DAY = 86400
Thing = dict[str, Any]


@dataclass
class Theirs:
    """A subscription: the object that the API returns now, and since when it has its status."""

    thing: Thing
    since: int

    @property
    def status(self) -> str:
        return str(self.thing["status"])

    @property
    def price(self) -> str:
        return str(self.thing["items"]["data"][0]["price"]["id"])

    @property
    def ends(self) -> bool:
        return self.thing["cancel_at_period_end"] or self.thing["cancel_at"] is not None


@dataclass
class Book:
    """The account's books; `now` is Stripe's clock, in seconds since 1970."""

    now: int
    subscriptions: list[Theirs] = field(default_factory=list)
    told: list[Thing] = field(default_factory=list)

    def begin(self, customer: str, status: str, price: str) -> Theirs:
        number = uuid4().hex[:16]
        thing = {
            "id": f"sub_{number}",
            "object": "subscription",
            "customer": customer,
            "status": status,
            "cancel_at": None,
            "cancel_at_period_end": False,
            "pause_collection": None,
            "schedule": None,
            "metadata": {"email": f"{customer}@example.com"},
            "items": {"object": "list", "data": [self._item(number, price, self.now + 30 * DAY)]},
        }
        made = Theirs(thing, self.now)
        self.subscriptions.append(made)
        self._say("customer.subscription.created", thing)
        return made

    def change(self, it: Theirs, also: str | None = None, **changes: Any) -> None:
        """Make one change by one API call. `also` is a separate event that Stripe sends for it."""
        before = copy.deepcopy(it.thing)
        if (price := changes.pop("price", None)) is not None:
            it.thing["items"] = self._items(it, price, before["items"]["data"][0])
        if (end := changes.pop("period_end", None)) is not None:
            old = before["items"]["data"][0]
            it.thing["items"] = self._items(it, it.price, old | {"current_period_end": end})
        it.thing |= changes
        if it.status != before["status"]:
            it.since = self.now
        previous = {key: value for key, value in before.items() if it.thing[key] != value}
        if "items" in previous:
            previous["items"] = {"data": previous["items"]["data"]}
        if previous:
            self._say("customer.subscription.updated", it.thing, previous_attributes=previous)
        if also is not None:
            self._say(f"customer.subscription.{also}", it.thing)

    def end(self, it: Theirs) -> None:
        it.thing |= {"status": "canceled", "canceled_at": self.now, "ended_at": self.now}
        it.since = self.now
        self._say("customer.subscription.deleted", it.thing)

    def bill(self, it: Theirs, *, paid: bool) -> None:
        """Send the event of a period's invoice, paid or failed."""
        parent = {
            "type": "subscription_details",
            "subscription_details": {"subscription": it.thing["id"]},
        }
        invoice = {
            "id": f"in_{uuid4().hex[:16]}",
            "object": "invoice",
            "customer": it.thing["customer"],
            "amount_due": 1500,
            "amount_paid": 1500 if paid else 0,
            "currency": "eur",
            "parent": parent,
        }
        self._say("invoice.paid" if paid else "invoice.payment_failed", invoice)

    def say_of_others(self, it: Theirs, status: str, **marks: Any) -> None:
        """Send an event with a known subscription's id from test mode or a connected account."""
        thing = it.thing | {"status": status}
        self._say("customer.subscription.updated", thing, **marks)

    def _say(
        self,
        type_: str,
        thing: Thing,
        *,
        previous_attributes: Thing | None = None,
        **marks: Any,
    ) -> None:
        kind = sdk.Invoice if thing["object"] == "invoice" else sdk.Subscription
        assert not faults(shape(kind), thing, whole=False)
        data = {"object": copy.deepcopy(thing)}
        if previous_attributes is not None:
            data["previous_attributes"] = previous_attributes
        event = {
            "id": f"evt_{uuid4().hex}",
            "object": "event",
            "api_version": "2026-10-28.endive",
            "type": type_,
            "created": self.now,
            "livemode": True,
            "data": data,
        }
        self.told.append(event | marks)

    def _items(self, it: Theirs, price: str, item: Thing) -> Thing:
        number = it.thing["id"].removeprefix("sub_")
        return {"object": "list", "data": [self._item(number, price, item["current_period_end"])]}

    def _item(self, number: str, price: str, period_end: int) -> Thing:
        recurring = {"interval": "month", "interval_count": 1}
        return {
            "id": f"si_{number}",
            "object": "subscription_item",
            "price": {
                "id": price,
                "object": "price",
                "currency": "eur",
                "unit_amount": 1500,
                "nickname": price,
                "recurring": recurring,
            },
            "current_period_end": period_end,
        }
