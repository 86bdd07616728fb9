"""Fapshi: mobile money in Cameroon. https://docs.fapshi.com/en/api-reference/endpoint/payout

Fapshi knows no idempotency key. Our reference goes into `userId` too, the only thing that its
transactions can be searched for by; and its not knowing of a payout proves nothing for a while.
A service of Fapshi's that pays out can't collect, so its credentials are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field, HttpUrl, SecretStr

from common.contracts.money import minor_units
from common.errors import Invalid, Upstream
from common.outside import Object, Refused, answer, call, url
from payouts import clients
from payouts.clients import Listed, Order, PayoutClient, last_four
from payouts.domain import Fate, Found

_SMALLEST = 100  # XAF


class Options(clients.Options):
    api_user: str = Field(min_length=1)
    api_key: SecretStr
    base_url: HttpUrl = HttpUrl("https://live.fapshi.com")


class Details(clients.Details):
    """A mobile money number."""

    phone: str = Field(pattern=r"^6[0-9]{8}$")
    medium: Literal["mobile money", "orange money"] | None = None

    @property
    def shown(self) -> str:
        return f"phone {last_four(self.phone)}"


class Fapshi(PayoutClient):  # no `ListingClient`: its search shows the newest hundred at the most
    details_model = Details
    options_model = Options
    options: Options
    quiet = timedelta(minutes=5)
    keeps_keys = timedelta()

    def check(self, order: Order) -> None:
        if order.currency != "XAF" or order.amount < _SMALLEST:
            raise Invalid(f"fapshi pays {_SMALLEST} XAF or more")

    async def send(self, order: Order, key: str) -> Found:
        made = await call(
            self._http,
            "POST",
            url(self.options.base_url, "payout"),
            headers=self._headers(),
            json=payout_body(order),
        )
        if made is None:
            raise Refused("answers 404 to a payout: check base_url", 404)
        return Found(str(made["transId"]), Fate.ACCEPTED, order.amount, order.currency)

    async def find(self, order: Order, since: datetime) -> Sequence[Listed]:
        target = url(self.options.base_url, "transaction", order.id)
        listed = await answer(self._http, "GET", target, headers=self._headers())
        if listed is None:
            raise Upstream("answers 404 to a search: that proves nothing")
        found = listed.json()
        if not isinstance(found, list):
            raise Upstream("answers something that is no list of transactions")
        return [_listed(each) for each in found]

    def _headers(self) -> dict[str, str]:
        options = self.options
        return {"apiuser": options.api_user, "apikey": options.api_key.get_secret_value()}


def payout_body(order: Order) -> dict[str, Any]:
    assert isinstance(order.details, Details)
    body: dict[str, Any] = {
        "amount": order.amount,
        "phone": order.details.phone,
        "userId": order.id,
        "externalId": order.id,
    }
    if order.details.medium is not None:
        body["medium"] = order.details.medium
    if order.description:
        body["message"] = order.description
    return body


_FATES = {
    "CREATED": Fate.ACCEPTED,
    "PENDING": Fate.ACCEPTED,
    "SUCCESSFUL": Fate.PAID,
    "FAILED": Fate.FAILED,
    "EXPIRED": Fate.FAILED,
}


def _listed(transaction: Object) -> Listed:
    return Listed(
        str(transaction["transId"]),
        _FATES[transaction["status"]],
        minor_units(str(transaction["amount"]), "XAF"),
        "XAF",
        transaction.get("externalId"),
        _time(transaction["dateInitiated"]),
    )


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
