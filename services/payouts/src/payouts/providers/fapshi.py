"""Fapshi: mobile money in Cameroon. https://docs.fapshi.com/en/api-reference/endpoint/payout

Fapshi has no idempotency key. Our reference goes into `userId`, the only field by which its
transactions can be queried, and with the recipient's id into `externalId`. For a while, a status
query that does not find a payout proves nothing. A Fapshi service that pays out can't collect, so
it has credentials of its own.

The search returns the hundred oldest or newest transactions of a day
(https://docs.fapshi.com/en/api-reference/endpoint/search-transactions): a day of more than two
hundred payouts can't be listed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from pydantic import Field, HttpUrl, SecretStr

from common.clients.json_api import Object, join_url, request, request_json
from common.contracts.money import minor_units
from common.errors import Invalid, ProviderRejected, Upstream
from payouts.domain import ProviderTransfer, TransferStatus
from payouts.providers import base
from payouts.providers.base import (
    Incomplete,
    ListedTransfer,
    PayoutClient,
    PayoutRequest,
    last_four,
)

_SMALLEST = 100  # XAF
_PAGE = 100


class Options(base.Options):
    api_user: str = Field(min_length=1)
    api_key: SecretStr
    base_url: HttpUrl = HttpUrl("https://live.fapshi.com")


class Details(base.RecipientDetails):
    """A mobile money number."""

    phone: str = Field(pattern=r"^6[0-9]{8}$")
    medium: Literal["mobile money", "orange money"] | None = None

    @property
    def masked_details(self) -> str:
        return f"phone {last_four(self.phone)}"


class Fapshi(PayoutClient):
    details_model = Details
    options_model = Options
    options: Options
    quiet = timedelta(minutes=5)
    keeps_keys = timedelta()

    def check(self, order: PayoutRequest) -> None:
        if order.currency != "XAF" or order.amount < _SMALLEST:
            raise Invalid(f"fapshi pays {_SMALLEST} XAF or more")

    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        made = await request_json(
            self._http,
            "POST",
            join_url(self.options.base_url, "payout"),
            headers=self._headers(),
            json=payout_body(order),
        )
        if made is None:
            raise ProviderRejected("answers 404 to a payout: check base_url", 404)
        return ProviderTransfer(
            str(made["transId"]), TransferStatus.ACCEPTED, order.amount, order.currency
        )

    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        target = join_url(self.options.base_url, "transaction", order.id)
        return [_listed(each) for each in await self._list(target, {})]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        # Fapshi does not document the time zone of these days: query one more on both sides.
        day, end = first.date() - timedelta(days=1), last.date() + timedelta(days=1)
        while day <= end:
            for each in await self._of_day(day):
                listed = _listed(each)
                if first <= listed.created_at < last and each.get("transType") != "Collection":
                    yield listed
            day += timedelta(days=1)

    async def _of_day(self, day: date) -> Sequence[Object]:
        target = join_url(self.options.base_url, "search")
        query = {"start": str(day), "end": str(day), "limit": _PAGE}
        newest = await self._list(target, query | {"sort": "desc"})
        if len(newest) < _PAGE:
            return newest
        oldest = await self._list(target, query | {"sort": "asc"})
        found = {each["transId"]: each for each in [*newest, *oldest]}
        if len(found) == 2 * _PAGE:
            raise Incomplete(
                f"lists at most {len(found)} payouts of a day, and made as many on {day}"
            )
        return list(found.values())

    async def _list(self, target: str, query: Mapping[str, Any]) -> list[Object]:
        listed = await request(
            self._http, "GET", target, headers=self._headers(), params=dict(query)
        )
        if listed is None:
            raise Upstream("answers 404 to a search, which proves nothing")
        found = listed.json()
        if not isinstance(found, list):
            raise Upstream("did not return a list of transactions")
        return found

    def _headers(self) -> dict[str, str]:
        options = self.options
        return {"apiuser": options.api_user, "apikey": options.api_key.get_secret_value()}


def payout_body(order: PayoutRequest) -> dict[str, Any]:
    assert isinstance(order.details, Details)
    body: dict[str, Any] = {
        "amount": order.amount,
        "phone": order.details.phone,
        "userId": order.id,
        "externalId": f"{order.id}_{order.recipient_id}",
    }
    if order.details.medium is not None:
        body["medium"] = order.details.medium
    if order.description:
        body["message"] = order.description
    return body


_FATES = {
    "CREATED": TransferStatus.ACCEPTED,
    "PENDING": TransferStatus.ACCEPTED,
    "SUCCESSFUL": TransferStatus.PAID,
    "FAILED": TransferStatus.FAILED,
    "EXPIRED": TransferStatus.FAILED,
}


def _listed(transaction: Object) -> ListedTransfer:
    reference, _, recipient = (transaction.get("externalId") or "").partition("_")
    return ListedTransfer(
        str(transaction["transId"]),
        _FATES[transaction["status"]],
        minor_units(str(transaction["amount"]), "XAF"),
        "XAF",
        reference=reference or None,
        created_at=_time(transaction["dateInitiated"]),
        recipient_id=recipient or None,
    )


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
