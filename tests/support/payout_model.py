"""An in-memory payout provider: its books, its idempotency keys, and its failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

import httpx

from common.clients.json_api import Object
from common.errors import ProviderRejected, ProviderTimeout, RateLimited, Upstream
from payouts.domain import ProviderTransfer, TransferStatus
from payouts.providers import base
from payouts.providers import square as square_client
from payouts.providers.base import ListedTransfer, PayoutClient, PayoutRequest, ReadOnlyClient
from payouts.providers.dwolla import Dwolla, Options
from payouts.providers.stripe import Details
from sandbox.payout_providers.store import DWOLLA_ACCOUNT, dwolla_object
from sandbox.payout_providers.store import Transfer as DwollaTransfer

Answer = Literal[
    "ok", "error_before", "error_after", "lost", "not_taken", "later", "refused", "deferred",
    "refused_after", "deferred_after",
]  # fmt: skip
"""What becomes of a request. The last two are lies: it was done, and the answer says that not."""

Kind = Literal["keyed", "keyless", "legs"]
"""A provider as Stripe is: it repeats its first answer, failures too, and forgets after a day. As
Fapshi is, without keys. As Dwolla is: with keys, and each transfer is funded by another one, which
has the same reference."""

_KEYS_LIVE = timedelta(hours=24)
QUIET = timedelta(minutes=1)


@dataclass
class Request:
    """A request that the provider may still execute after its caller has stopped waiting."""

    order: PayoutRequest
    key: str
    sent_at: timedelta


@dataclass
class Made:
    """A transfer. A leg funds another transfer: it brings the recipient no money."""

    reference: str
    recipient: str
    found: ProviderTransfer
    at: timedelta
    leg: bool = False

    @property
    def moves_money(self) -> bool:
        return self.found.transfer_status.moves_money and not self.leg


@dataclass
class Provider:
    """The provider's state. `again` counts, by reference, the transfers that it made without a
    request."""

    kind: Kind
    now: timedelta = timedelta()
    made: dict[str, Made] = field(default_factory=dict)
    answers: dict[str, tuple[timedelta, ProviderTransfer | None]] = field(default_factory=dict)
    under_way: list[Request] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)

    @property
    def keyed(self) -> bool:
        return self.kind != "keyless"

    @property
    def transfers(self) -> dict[str, Made]:
        """Return the transfers without legs."""
        return {id_: made for id_, made in self.made.items() if not made.leg}

    def take(self, order: PayoutRequest, key: str, how: Answer) -> ProviderTransfer | Exception:
        """Process a request; return the response that the caller receives."""
        undone: dict[Answer, Exception] = {
            "not_taken": ProviderTimeout("nobody there"),
            "later": ProviderTimeout("did not respond within 1 s"),
            "refused": ProviderRejected("answers 400", 400),
            "deferred": RateLimited("limits the rate of calls", 1),
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
            "lost": ProviderTimeout("did not respond within 1 s"),
            "refused_after": ProviderRejected("answers 400", 400),
            "deferred_after": RateLimited("limits the rate of calls", 1),
        }
        return said.get(how, found)

    def land(self, request: Request) -> None:
        self.under_way.remove(request)
        if not self.keyed or self._recall(request.key) is None:
            self._do(request.order, request.key)

    def make_again(self, transfer_id: str) -> None:
        """Duplicate a transfer by the provider's own fault, without a request."""
        made = self.made[transfer_id]
        found = replace(made.found, transfer_id=_name(), transfer_status=TransferStatus.ACCEPTED)
        self.made[found.transfer_id] = replace(made, found=found, at=self.now)
        self.again[made.reference] += 1

    def advance(self, by: timedelta) -> None:
        """Advance the clock. Pending requests land in time: with keys, while keys are remembered;
        without, before an empty status check counts as proof."""
        longest = timedelta(hours=20) if self.keyed else QUIET
        for request in list(self.under_way):
            if self.now + by - request.sent_at >= longest:
                self.land(request)
        self.now += by

    def settle(self, transfer_id: str, transfer_status: TransferStatus) -> None:
        made = self.made[transfer_id]
        made.found = replace(made.found, transfer_status=transfer_status)

    def of(self, reference: str) -> list[Made]:
        return [made for made in self.transfers.values() if made.reference == reference]

    def moving(self, reference: str) -> int:
        """Return how many transfers of a payout move money."""
        return sum(made.moves_money for made in self.of(reference))

    def has(self, recipient: str) -> int:
        """Return the amount a recipient has received, without the provider's own duplicates."""
        sums: dict[str, int] = {}
        for made in self.transfers.values():
            if made.recipient == recipient and made.moves_money:
                sums[made.reference] = made.found.amount
        return sum(sums.values())

    def listed(self, reference: str | None = None) -> list[ListedTransfer]:
        """Return all transfers, or those of one reference, with legs and times on our clock."""
        present = datetime.now(UTC)
        return [
            ListedTransfer(
                **vars(made.found),
                reference=made.reference,
                created_at=present - (self.now - made.at),
                recipient_id=made.recipient,
            )
            for made in self.made.values()
            if reference in {None, made.reference}
        ]

    def _do(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        to = order.details.provider_ref
        found = ProviderTransfer(_name(), TransferStatus.ACCEPTED, order.amount, order.currency, to)
        if self.kind == "legs":
            leg = replace(found, transfer_id=_name(), destination="our balance")
            made = Made(order.id, order.recipient_id, leg, self.now, leg=True)
            self.made[leg.transfer_id] = made
        self.made[found.transfer_id] = Made(order.id, order.recipient_id, found, self.now)
        self._keep(key, found)
        return found

    def _keep(self, key: str, answer: ProviderTransfer | None) -> None:
        self.answers[key] = (self.now, answer)

    def _recall(self, key: str) -> ProviderTransfer | Exception | None:
        if key not in self.answers or self.now - self.answers[key][0] > _KEYS_LIVE:
            return None
        answer = self.answers[key][1]
        return answer if answer is not None else Upstream("answers 500")


def _name() -> str:
    return f"tr_{uuid4().hex[:12]}"


class ModelClient(PayoutClient):
    """A client whose requests and responses are carried by the test itself; lists are read as the
    real clients do."""

    details_model = Details

    def __init__(self, provider: Provider) -> None:
        options = base.Options(limits={"USD": 1_000_000}, approval_threshold={"USD": 100_000})
        super().__init__(options, httpx.AsyncClient())
        self.quiet = QUIET  # type: ignore[misc]
        self.keeps_keys = timedelta(hours=23) if provider.keyed else timedelta()  # type: ignore[misc]
        self.provider = provider
        self.answers = True
        self._reader = _Dwolla(provider) if provider.kind == "legs" else None

    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        raise AssertionError("the test carries it to the provider")

    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        if self._reader is not None:
            return await self._reader.find(order, since)
        return [each for each in self.provider.listed(order.id) if each.created_at >= since]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        if not self.answers:
            raise ProviderTimeout("gave no answer")
        if self._reader is not None:
            async for each in self._reader.transfers(first, last, orders):
                yield each
            return
        for each in self.provider.listed():
            if first <= each.created_at < last:
                yield each


class _Dwolla(Dwolla):
    """Dwolla's own client, reading the model's list in Dwolla's format."""

    def __init__(self, provider: Provider) -> None:
        ours = "707177c3-bf15-4e7e-b37c-55c3898d9bf4"
        options: Any = {"account_id": DWOLLA_ACCOUNT, "funding_source": ours}
        options |= {"key": "x", "secret": "x", "limits": {"USD": 1}}
        super().__init__(Options(**options), httpx.AsyncClient())
        self._provider = provider

    async def _list(self, query: dict[str, str]) -> AsyncIterator[Object]:
        for each in self._provider.listed(query.get("correlationId")):
            yield self._said(each)

    def _said(self, listed: ListedTransfer) -> Object:
        words: Any = {
            TransferStatus.ACCEPTED: "pending",
            TransferStatus.PAID: "paid",
            TransferStatus.FAILED: "failed",
        }
        transfer = DwollaTransfer(
            "dwolla",
            listed.transfer_id,
            listed.reference or "",
            listed.destination or "",
            listed.amount,
            listed.currency,
            "leg" if self._provider.made[listed.transfer_id].leg else "ach",
            listed.created_at.timestamp(),
            more={"metadata": {"recipient": listed.recipient_id}},
        )
        transfer.status = words.get(listed.transfer_status, "returned")
        said = dwolla_object(transfer)
        if listed.transfer_status is TransferStatus.RETURNED:
            said["status"] = "reclaimed"
        return said


class PayerClient(ReadOnlyClient):
    """The client of a provider that pays a location by its own rules, as Square does; it collects
    negative amounts."""

    details_model = square_client.Details

    def __init__(self, location: str) -> None:
        super().__init__(base.Options(limits={"USD": 1}), httpx.AsyncClient())
        self.provider = Provider("keyless")
        self._location = location

    def pay(self, amount: int) -> None:
        found = ProviderTransfer(_name(), TransferStatus.PAID, amount, "USD", self._location)
        self.provider.made[found.transfer_id] = Made("", "", found, self.provider.now)

    @property
    def paid(self) -> int:
        return sum(made.found.amount for made in self.provider.made.values())

    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        return [each for each in self._listed() if each.transfer_id in order.known]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        for each in self._listed():
            if first <= each.created_at < last:
                yield each

    def _listed(self) -> list[ListedTransfer]:
        return [replace(each, reference=None, recipient_id=None) for each in self.provider.listed()]
