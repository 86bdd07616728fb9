"""A provider that pays out, in memory: its books, its idempotency keys, its ways of failing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, cast
from uuid import uuid4

from common.errors import RateLimited, Upstream
from common.outside import NoAnswer, Refused
from payouts import clients
from payouts.clients import Listed, Order, PayoutClient
from payouts.clients.stripe import Details
from payouts.domain import Fate, Found

Answer = Literal[
    "ok", "error_before", "error_after", "lost", "not_taken", "later", "refused", "deferred",
    "refused_after", "deferred_after",
]  # fmt: skip
"""What becomes of a request. The last two are lies: it was done, and the answer says that not."""

_KEYS_LIVE = timedelta(hours=24)
QUIET = timedelta(minutes=1)


@dataclass
class Request:
    """One that the provider will still do, or not, some time after nobody waits for it."""

    order: Order
    key: str
    sent_at: timedelta


@dataclass
class Provider:
    """`keyed` as Stripe is: it repeats its first answer, failures too, and forgets after a day."""

    keyed: bool
    now: timedelta = timedelta()
    transfers: dict[str, tuple[str, Found]] = field(default_factory=dict)
    answers: dict[str, tuple[timedelta, Found | None]] = field(default_factory=dict)
    under_way: list[Request] = field(default_factory=list)

    def take(self, order: Order, key: str, how: Answer) -> Found | Exception:
        """What the caller hears."""
        undone: dict[Answer, Exception] = {
            "not_taken": NoAnswer("nobody there"),
            "later": NoAnswer("gave no answer in 1 s"),
            "refused": Refused("answers 400", 400),
            "deferred": RateLimited("asked too often", 1),
        }
        if how == "later":
            self.under_way.append(Request(order, key, self.now))
        if how in undone:
            return undone[how]
        if self.keyed and (known := self._recall(key)) is not None:
            return known
        if how == "error_before":
            self._keep(key, None)
            return Upstream("answers 500")
        found = self._do(order, key)
        if how == "error_after":
            self._keep(key, None)
        said: dict[Answer, Exception] = {
            "error_after": Upstream("answers 500"),
            "lost": NoAnswer("gave no answer in 1 s"),
            "refused_after": Refused("answers 400", 400),
            "deferred_after": RateLimited("asked too often", 1),
        }
        return said.get(how, found)

    def land(self, request: Request) -> None:
        self.under_way.remove(request)
        if not self.keyed or self._recall(request.key) is None:
            self._do(request.order, request.key)

    def advance(self, by: timedelta) -> None:
        """What is under way ends in time: with keys, as long as they are known; without, before a
        look-up that finds nothing is believed."""
        longest = timedelta(hours=20) if self.keyed else QUIET
        for request in list(self.under_way):
            if self.now + by - request.sent_at >= longest:
                self.land(request)
        self.now += by

    def list(self, reference: str) -> list[Found]:
        return [found for of, found in self.transfers.values() if of == reference]

    def settle(self, transfer_id: str, fate: Fate) -> None:
        reference, found = self.transfers[transfer_id]
        self.transfers[transfer_id] = (reference, replace(found, fate=fate))

    def moving(self, reference: str) -> int:
        """How many transfers of a payout move money."""
        return sum(found.fate.moves_money for found in self.list(reference))

    def _do(self, order: Order, key: str) -> Found:
        found = Found(f"tr_{uuid4().hex[:12]}", Fate.ACCEPTED, order.amount, order.currency)
        self.transfers[found.transfer_id] = (order.id, found)
        self._keep(key, found)
        return found

    def _keep(self, key: str, answer: Found | None) -> None:
        self.answers[key] = (self.now, answer)

    def _recall(self, key: str) -> Found | Exception | None:
        if key not in self.answers or self.now - self.answers[key][0] > _KEYS_LIVE:
            return None
        answer = self.answers[key][1]
        return answer if answer is not None else Upstream("answers 500")


class ModelClient(PayoutClient):
    """Only its rules are used: the test itself carries orders to the provider and answers back."""

    details_model = Details

    def __init__(self, *, keyed: bool) -> None:
        options = clients.Options(limits={"USD": 1_000_000}, approval_above={"USD": 100_000})
        super().__init__(options, cast("object", None))  # type: ignore[arg-type]
        self.quiet = QUIET  # type: ignore[misc]
        self.keeps_keys = timedelta(hours=23) if keyed else timedelta()  # type: ignore[misc]

    async def send(self, order: Order, key: str) -> Found:
        raise AssertionError("the test carries it to the provider")

    async def find(self, order: Order, since: datetime) -> Sequence[Listed]:
        raise AssertionError("the test asks the provider")

    def transfers(
        self, first: datetime, last: datetime, orders: Sequence[Order]
    ) -> AsyncIterator[Listed]:
        raise AssertionError("the test asks the provider")
