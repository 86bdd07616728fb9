"""Dwolla: transfers between funding sources in the United States. Plain HTTP: the official package
is synchronous and has no time-outs (docs/adr/0013-payouts.md).

https://developers.dwolla.com/docs/api-reference/transfers/initiate-a-transfer
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import httpx
from pydantic import Field, HttpUrl, SecretStr

from common.contracts.money import major_units, minor_units
from common.errors import Invalid, Upstream
from common.outside import NoAnswer, NotAuthorized, Object, Refused, Token, answer, call, url
from payouts import clients
from payouts.clients import Listed, ListingClient, Order, last_four
from payouts.domain import Fate, Found

_HAL = {"Accept": "application/vnd.dwolla.v1.hal+json"}
_PAGE = 200
_UUID = r"^[0-9a-fA-F-]{36}$"


class Options(clients.Options):
    """`account_id` is our own account, `funding_source` the one of ours that pays."""

    key: str = Field(min_length=1)
    secret: SecretStr
    account_id: str = Field(pattern=_UUID)
    funding_source: str = Field(pattern=_UUID)
    base_url: HttpUrl = HttpUrl("https://api.dwolla.com")


class Details(clients.Details):
    """The recipient's funding source: a bank account, or the balance of a customer."""

    funding_source: str = Field(pattern=_UUID)

    @property
    def shown(self) -> str:
        return f"funding source {last_four(self.funding_source)}"


class Dwolla(ListingClient):
    details_model = Details
    options_model = Options
    options: Options

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._token = Token()

    def check(self, order: Order) -> None:
        if order.currency != "USD":
            raise Invalid("dwolla pays in USD only")

    async def send(self, order: Order, key: str) -> Found:
        body = transfer_body(order, str(self.options.base_url), self.options.funding_source)
        try:
            made = await answer(
                self._http,
                "POST",
                url(self.options.base_url, "transfers"),
                headers={**await self._headers(), "Idempotency-Key": key},
                json=body,
            )
        except Refused as error:
            if error.status == httpx.codes.CONFLICT:
                raise NoAnswer("is still busy with the same request") from error
            raise
        if made is None:
            raise Refused("answers 404 to a transfer: check base_url", 404)
        id_ = made.headers["location"].rsplit("/", 1)[-1]
        return Found(id_, Fate.ACCEPTED, order.amount, order.currency)

    async def find(self, order: Order, since: datetime) -> Sequence[Listed]:
        found = self._list({"correlationId": order.id})
        return [_listed(each) async for each in found]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[Order]
    ) -> AsyncIterator[Listed]:
        days = {"startDate": f"{first:%Y-%m-%d}", "endDate": f"{last:%Y-%m-%d}"}  # both included
        async for transfer in self._list(days):
            each = _listed(transfer)
            source = transfer["_links"].get("source", {}).get("href", "")
            # The account's list has what it received, too.
            if source.endswith(self.options.funding_source) and first <= each.created_at < last:
                yield each

    async def _list(self, query: dict[str, str]) -> AsyncIterator[Object]:
        offset = 0
        while True:
            page = await call(
                self._http,
                "GET",
                url(self.options.base_url, "accounts", self.options.account_id, "transfers"),
                params={**query, "limit": _PAGE, "offset": offset},
                headers=await self._headers(),
            )
            if page is None:
                raise Upstream("does not know the account_id")
            items = page["_embedded"]["transfers"]
            for item in items:
                yield item
            offset += len(items)
            if len(items) < _PAGE:
                return

    async def _headers(self) -> dict[str, str]:
        try:
            token = await self._token.get(self._fetch_token)
        except NotAuthorized:
            self._token.forget()
            raise
        return {**_HAL, "Authorization": f"Bearer {token}"}

    async def _fetch_token(self) -> Object | None:
        return await call(
            self._http,
            "POST",
            url(self.options.base_url, "token"),
            data={"grant_type": "client_credentials"},
            auth=(self.options.key, self.options.secret.get_secret_value()),
        )


def transfer_body(order: Order, base_url: str, source: str) -> dict[str, Any]:
    """The same order gives the same bytes: Dwolla compares them with those that the key had."""
    assert isinstance(order.details, Details)
    base = base_url.rstrip("/")
    return {
        "_links": {
            "source": {"href": f"{base}/funding-sources/{source}"},
            "destination": {"href": f"{base}/funding-sources/{order.details.funding_source}"},
        },
        "amount": {
            "currency": order.currency,
            "value": str(major_units(order.amount, order.currency)),
        },
        "metadata": {"payout": order.id},
        "correlationId": order.id,
    }


# https://developers.dwolla.com/docs/api-reference/transfers/transfers-resource
_FATES = {
    "pending": Fate.ACCEPTED,
    "processed": Fate.PAID,
    "failed": Fate.FAILED,
    "cancelled": Fate.FAILED,
    "reclaimed": Fate.RETURNED,
}


def _listed(transfer: Object) -> Listed:
    currency = transfer["amount"]["currency"]
    return Listed(
        transfer["id"],
        _FATES[transfer["status"]],
        minor_units(transfer["amount"]["value"], currency),
        currency,
        transfer.get("correlationId"),
        datetime.fromisoformat(transfer["created"]),
    )
