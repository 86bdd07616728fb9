"""Stripe Connect, Dwolla and Fapshi as payout providers, with their rules of idempotency and their
failures, and the records of what they really paid.

`PUT /_payouts/behaviour` sets how they misbehave, `PUT /_payouts/fates` the outcomes of accepted
payouts, `POST /_payouts/clock` moves their time forward, `GET /_payouts` returns their records.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid4, uuid5

from pydantic import BaseModel, ConfigDict, Field

from sandbox.stratified_choice import Deck
from sandbox.stripe.api import VERSION
from sandbox.webhook_sender import Postman

Status = Literal["pending", "paid", "failed", "returned"]
Mode = Literal["well", "error", "error_after", "lost", "rate_limited"]

_KEYS_LIVE_SECONDS = 24 * 3600
# At Dwolla: the account that all tokens belong to, and its balance.
DWOLLA_ACCOUNT = "ca32853c-48fa-40be-ae75-77b37504581b"
_DWOLLA_BALANCE = "b5e68264-7d4d-42a9-88d4-5616c77c6baa"
_DWOLLA = "https://api-sandbox.dwolla.com"


class Behaviour(BaseModel):
    """Shares of the calls: `error` is a 500 before the work, `error_after` one after it, `lost` is
    no response after it. Lists by date lack what was made in the last `lists_lag_seconds`; queries
    by our reference find everything immediately."""

    model_config = ConfigDict(extra="forbid")

    error: float = Field(default=0, ge=0, le=1)
    error_after: float = Field(default=0, ge=0, le=1)
    lost: float = Field(default=0, ge=0, le=1)
    rate_limited: float = Field(default=0, ge=0, le=1)
    delay_seconds: float = Field(default=0, ge=0, le=60)
    lists_lag_seconds: float = Field(default=0, ge=0, le=86400)


class Fates(BaseModel):
    """Shares of the accepted payouts; those that neither fail nor come back are paid. Stripe's
    transfers are paid when they are accepted, and never fail."""

    model_config = ConfigDict(extra="forbid")

    fail: float = Field(default=0, ge=0, le=1)
    come_back: float = Field(default=0, ge=0, le=1)
    settle_seconds: float = Field(default=0.1, ge=0, le=86400)
    come_back_seconds: float = Field(default=1, ge=0, le=86400)


class Forward(BaseModel):
    seconds: float


class Foreign(BaseModel):
    """A transfer made in the provider's dashboard or, at Dwolla, an incoming one."""

    provider: Literal["stripe", "dwolla"]
    amount: int = Field(gt=0)
    incoming: bool = False


class Move(BaseModel):
    """`part` of a Stripe transfer comes back, and the rest stays paid. `destination` is where it
    went instead."""

    status: Status | None = None
    part: int | None = None
    destination: str | None = None


@dataclass
class Transfer:
    """`amount` is in minor units, `at` is the sandbox's time in seconds (UTC). `reference` is the
    caller's reference."""

    provider: str
    id: str
    reference: str
    destination: str
    amount: int
    currency: str
    kind: str
    at: float
    status: Status = "pending"
    returns: int = 0
    returned_part: int = 0
    settled: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def created(self) -> str:
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Kept:
    """The record of an idempotency key; without a response the call is under way."""

    request: str
    at: float
    answer: Answer | None = None


class Payouts:
    def __init__(self, secrets: Mapping[str, str], *, postman: Postman, seed: int) -> None:
        self.transfers: dict[str, Transfer] = {}
        # At Dwolla: transfers that fund another one, or come in. They pay no recipient.
        self.legs: dict[str, Transfer] = {}
        self.revoked: set[str] = set()
        self.calls: Counter[str] = Counter()
        self._secrets = secrets
        self._postman = postman
        self._chance = random.Random(seed)  # noqa: S311 - reproducible misbehaviour
        self._forward = 0.0
        self._keys: dict[tuple[str, str], Kept] = {}
        self._later: set[asyncio.Task[None]] = set()
        self.behave(Behaviour())
        self.fate(Fates())

    def behave(self, behaviour: Behaviour) -> None:
        self._delay = behaviour.delay_seconds
        self._lag = behaviour.lists_lag_seconds
        shares = behaviour.model_dump(exclude={"delay_seconds", "lists_lag_seconds"})
        self._modes: Deck[Mode] = Deck(shares, "well", self._chance, size=100)  # type: ignore[arg-type]

    def fate(self, fates: Fates) -> None:
        self._fates = fates
        shares: dict[Status, float] = {"failed": fates.fail, "returned": fates.come_back}
        self._dealt: Deck[Status] = Deck(shares, "paid", self._chance, size=100)
        only_failures: dict[Status, float] = {"failed": fates.fail}
        self._of_mobile: Deck[Status] = Deck(only_failures, "paid", self._chance, size=100)

    @property
    def now(self) -> float:
        return time.time() + self._forward

    def forward(self, seconds: float) -> None:
        """Move the providers' time forward, so that idempotency keys expire."""
        self._forward += seconds

    def listed(self, transfer: Transfer) -> bool:
        """Return whether lists by date include the transfer."""
        return transfer.at <= self.now - self._lag

    def books(self) -> dict[str, Any]:
        return {
            "transfers": [asdict(each) for each in self.transfers.values()],
            "legs": [asdict(each) for each in self.legs.values()],
            "calls": self.calls,
            "webhooks": self._postman.counts,
        }

    async def once(
        self, provider: str, key: str | None, request: str, work: Callable[[], Answer]
    ) -> Answer:
        """Do the work under the provider's idempotency rules, with the configured faults."""
        kept = self._recall(provider, key)
        if kept is not None:
            return _again(provider, kept, request)
        kept = Kept(request, self.now)
        if key is not None:
            self._keys[provider, key] = kept
        mode = self._modes.deal()
        self.calls[f"{provider} {mode}"] += 1
        await asyncio.sleep(self._delay)
        if mode == "rate_limited":
            self._forget(provider, key)
            return Answer(429, _error("Too many requests"), {"Retry-After": "1"})
        if mode == "error":
            kept.answer = Answer(500, _error("a fault on request"))
            if provider != "stripe":  # Stripe stores its failures
                self._forget(provider, key)
            return kept.answer
        kept.answer = work()
        if mode == "error_after":
            failed = Answer(500, _error("a fault on request, after the work"))
            if provider == "stripe":
                kept.answer = failed
            return failed
        if mode == "lost":
            await asyncio.sleep(3600)
        return kept.answer

    async def read(self, provider: str) -> Answer | None:
        """Return the error of a query, or None if it succeeds."""
        mode = self._modes.deal()
        self.calls[f"{provider} look-up {mode}"] += 1
        await asyncio.sleep(self._delay)
        if mode == "rate_limited":
            return Answer(429, _error("Too many requests"), {"Retry-After": "1"})
        if mode == "lost":
            await asyncio.sleep(3600)
        return (
            Answer(500, _error("a fault on request")) if mode in {"error", "error_after"} else None
        )

    def accept(self, transfer: Transfer) -> None:
        self.transfers[transfer.id] = transfer
        # Mobile money does not come back.
        fate = self._dealt.deal() if transfer.provider != "fapshi" else self._of_mobile.deal()
        if transfer.kind == "transfer":
            transfer.status = "paid"
            self._tell(transfer, "created")
        else:
            self._tell(transfer, "created")
            first: Status = "failed" if fate == "failed" else "paid"
            self._after(self._fates.settle_seconds, transfer, first)
        if fate == "returned":
            wait = self._fates.settle_seconds + self._fates.come_back_seconds
            self._after(wait, transfer, "returned")

    def fund(self, transfer: Transfer) -> None:
        """Create the leg from our bank to our balance, which Dwolla makes automatically before a
        transfer: it has the same correlation id, an id of its own, and completes first."""
        leg = replace(transfer, id=str(uuid4()), kind="leg", more={})
        leg.more = {"source": transfer.more["source"], "destination": _DWOLLA_BALANCE}
        leg.more["funded"], transfer.more["funding"] = transfer.id, leg.id
        self.legs[leg.id] = leg
        self._tell(leg, "created")
        self._after(self._fates.settle_seconds / 2, leg, "paid")

    def return_part(self, transfer: Transfer, part: int) -> None:
        transfer.returned_part += part
        self._tell(transfer, "returned")

    def move(self, transfer: Transfer, status: Status) -> None:
        transfer.status = status
        transfer.settled = datetime.fromtimestamp(self.now, UTC).isoformat(timespec="milliseconds")
        transfer.returns += status == "returned"
        self._tell(transfer, status)

    def _after(self, seconds: float, transfer: Transfer, status: Status) -> None:
        async def later() -> None:
            await asyncio.sleep(seconds)
            self.move(transfer, status)

        task = asyncio.create_task(later())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _recall(self, provider: str, key: str | None) -> Kept | None:
        if key is None:
            return None
        kept = self._keys.get((provider, key))
        if kept is not None and self.now - kept.at > _KEYS_LIVE_SECONDS:
            self._forget(provider, key)
            return None
        return kept

    def _forget(self, provider: str, key: str | None) -> None:
        if key is not None:
            self._keys.pop((provider, key), None)

    def _tell(self, transfer: Transfer, what: str) -> None:
        tell = {"stripe": self._tell_stripe, "dwolla": self._tell_dwolla}
        tell.get(transfer.provider, self._tell_fapshi)(transfer, what)

    def _tell_stripe(self, transfer: Transfer, what: str) -> None:
        type_ = f"{transfer.kind}.{_STRIPE_EVENTS[transfer.kind].get(what, what)}"
        body = {
            "id": f"evt_{uuid4().hex}",
            "object": "event",
            "api_version": VERSION,
            "created": int(time.time()),
            "livemode": False,
            "pending_webhooks": 1,
            "type": type_,
            "data": {"object": stripe_object(transfer)},
        }
        if (account := transfer.more.get("account")) is not None:
            body["account"] = account  # whose event it is
        raw = json.dumps(body).encode()
        at = int(time.time())
        secret = self._secrets["stripe"].encode()
        signed = hmac.new(secret, f"{at}.".encode() + raw, "sha256").hexdigest()
        headers = {"Stripe-Signature": f"t={at},v1={signed}"}
        self._postman.send("stripe-payouts", raw, headers, patient=True)

    def _tell_dwolla(self, transfer: Transfer, what: str) -> None:
        """Send the webhooks. https://developers.dwolla.com/docs/transfer-lifecycle: the account
        receives those of its outgoing transfers and of its bank's part, each customer those of
        incoming transfers."""
        if transfer.kind == "leg":
            self._tell_dwolla_of(transfer, f"bank_transfer_{_DWOLLA_TOPICS[what]}")
            return
        self._tell_dwolla_of(transfer, f"transfer_{_DWOLLA_TOPICS[what]}")
        customer = f"{_DWOLLA}/customers/{customer_of(transfer.destination)}"
        self._tell_dwolla_of(transfer, f"customer_transfer_{_DWOLLA_TOPICS[what]}", customer)

    def _tell_dwolla_of(self, transfer: Transfer, topic: str, customer: str | None = None) -> None:
        id_ = str(uuid4())
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        links = {
            "self": f"{_DWOLLA}/events/{id_}",
            "account": f"{_DWOLLA}/accounts/{DWOLLA_ACCOUNT}",
            "resource": f"{_DWOLLA}/transfers/{transfer.id}",
        } | ({"customer": customer} if customer else {})
        body = {
            "id": id_,
            "resourceId": transfer.id,
            "topic": topic,
            "timestamp": now,
            "_links": {relation: {"href": href} for relation, href in links.items()},
            "created": now,
        }
        raw = json.dumps(body).encode()
        signed = hmac.new(self._secrets["dwolla"].encode(), raw, "sha256").hexdigest()
        headers = {"X-Request-Signature-SHA-256": signed}
        self._postman.send("dwolla", raw, headers, patient=True)

    def _tell_fapshi(self, transfer: Transfer, what: str) -> None:
        if what != "created":
            headers = {"x-wh-secret": self._secrets["fapshi"]}
            self._postman.send("fapshi-payouts", fapshi_object(transfer), headers)


_STRIPE_EVENTS = {
    "transfer": {"returned": "reversed"},
    # A bank that returns a payout makes it a failed one, days after it was paid.
    "payout": {"returned": "failed"},
}
_DWOLLA_TOPICS = {
    "created": "created",
    "paid": "completed",
    "failed": "failed",
    "returned": "failed",
}
_DWOLLA_STATUS = {
    "pending": "pending",
    "paid": "processed",
    "failed": "failed",
    "returned": "failed",
}
_FAPSHI_STATUS = {"pending": "PENDING", "paid": "SUCCESSFUL", "failed": "FAILED"}


def stripe_object(transfer: Transfer) -> dict[str, Any]:
    """Return the object of https://docs.stripe.com/api/transfers/object or /payouts/object, as far
    as used."""
    common = {
        "id": transfer.id,
        "object": transfer.kind,
        "amount": transfer.amount,
        "currency": transfer.currency.lower(),
        "created": int(transfer.at),
        "metadata": transfer.more.get("metadata", {}),
        "livemode": False,
    }
    came_back = transfer.status == "returned"
    if transfer.kind == "transfer":
        return common | {
            "destination": transfer.destination,
            "transfer_group": transfer.reference or None,
            "reversed": came_back,
            "reversals": {
                "object": "list",
                "data": [],
                "has_more": False,
                "url": f"/v1/transfers/{transfer.id}/reversals",
            },
            "amount_reversed": transfer.amount if came_back else transfer.returned_part,
        }
    status = "failed" if came_back else transfer.status
    failure = "account_closed" if status == "failed" else None
    return common | {
        "destination": "ba_sandbox",
        "status": status,
        "automatic": False,
        "arrival_date": int(transfer.at),
        "method": "standard",
        "reconciliation_status": "not_applicable",
        "source_type": "card",
        "type": "bank_account",
        "failure_code": failure,
        "failure_message": failure,
    }


def dwolla_object(transfer: Transfer) -> dict[str, Any]:
    """Return the object of https://developers.dwolla.com/docs/api-reference/transfers, as in the
    example of .../retrieve-a-transfer"""
    more = transfer.more
    ours = ("accounts", DWOLLA_ACCOUNT)
    theirs = ("customers", customer_of(transfer.destination))
    source, destination = (theirs, ours) if more.get("incoming") else (ours, theirs)
    if transfer.kind == "leg":
        destination = source if not more.get("incoming") else ours
    links = {
        "self": ("transfers", transfer.id),
        "source": source,
        "destination": destination,
        "source-funding-source": ("funding-sources", more.get("source", _DWOLLA_BALANCE)),
        "destination-funding-source": (
            "funding-sources",
            more.get("destination", transfer.destination),
        ),
    }
    if "funding" in more:
        links["funding-transfer"] = ("transfers", more["funding"])
    if "funded" in more:
        links["funded-transfer"] = ("transfers", more["funded"])
    found = {
        "_links": {relation: _hal(*link) for relation, link in links.items()},
        "id": transfer.id,
        "status": _DWOLLA_STATUS[transfer.status],
        "amount": {"value": f"{transfer.amount / 100:.2f}", "currency": transfer.currency},
        "created": transfer.created,
        "metadata": more.get("metadata", {}),
        "clearing": {"source": "standard"},
    }
    # Values that were not given are absent.
    return found | ({"correlationId": transfer.reference} if transfer.reference else {})


def customer_of(funding_source: str) -> str:
    """Return the customer who owns the funding source."""
    return str(uuid5(NAMESPACE_URL, funding_source))


def _hal(kind: str, id_: str) -> dict[str, str]:
    return {
        "href": f"{_DWOLLA}/{kind}/{id_}",
        "type": "application/vnd.dwolla.v1.hal+json",
        "resource-type": kind.removesuffix("s"),
    }


def fapshi_object(transfer: Transfer) -> dict[str, Any]:
    """Return the object of https://docs.fapshi.com/en/api-reference/endpoint/payment-status"""
    return {
        "transId": transfer.id,
        "status": _FAPSHI_STATUS[transfer.status],
        "medium": "mobile money",
        "serviceName": "sandbox",
        "transType": "Payout",
        "amount": transfer.amount,
        "revenue": transfer.amount,
        "externalId": transfer.more.get("externalId"),
        "userId": transfer.more.get("userId"),
        "dateInitiated": transfer.created,
        **({"dateConfirmed": transfer.settled} if transfer.settled else {}),
    }


def _again(provider: str, kept: Kept, request: str) -> Answer:
    if kept.request != request:
        message = "Keys for idempotent requests can only be used with the same parameters"
        return Answer(400, {"error": {"type": "idempotency_error", "message": message}})
    if kept.answer is None:
        return Answer(409, _error("There is another request in progress with this key"))
    return Answer(
        kept.answer.status,
        kept.answer.body,
        {
            **kept.answer.headers,
            **({"Idempotent-Replayed": "true"} if provider == "stripe" else {}),
        },
    )


def _error(message: str) -> dict[str, Any]:
    return {"error": {"type": "api_error", "message": message}}
