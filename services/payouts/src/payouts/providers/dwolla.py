"""Dwolla: transfers between funding sources in the United States. Plain HTTP: the official package
is synchronous and has no timeouts (docs/adr/0013-payouts.md).

https://developers.dwolla.com/docs/api-reference/transfers/initiate-a-transfer

At Dwolla one transfer consists of several, "hops" or "legs": from our bank to our balance, and from
there to the recipient. All carry our correlation id, which "Dwolla will preserve throughout the
entire transfer life cycle" (https://developers.dwolla.com/docs/transfer-lifecycle). The payout is
the one that leaves our account. `source` is the account or customer that a transfer comes from,
`destination` the one that it goes to; `source-funding-source` and `destination-funding-source` are
the bank or balance (https://developers.dwolla.com/docs/api-reference/transfers).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
from pydantic import Field, HttpUrl, SecretStr

from common.clients.json_api import OAuthToken, Object, join_url, request, request_json
from common.contracts.money import major_units, minor_units
from common.errors import Invalid, NotAuthorized, ProviderRejected, ProviderTimeout, Upstream
from payouts.domain import ProviderTransfer, TransferStatus
from payouts.providers.base import ListedTransfer, PayoutClient, PayoutRequest, last_four
from payouts.providers.base import Options as CommonOptions
from payouts.providers.base import RecipientDetails as CommonDetails

_HAL = {"Accept": "application/vnd.dwolla.v1.hal+json"}
_PAGE = 200
_UUID = r"^[0-9a-fA-F-]{36}$"


class Options(CommonOptions):
    """Options of a Dwolla account. `account_id` is our own account, `funding_source` our funding
    source that pays."""

    key: str = Field(min_length=1)
    secret: SecretStr
    account_id: str = Field(pattern=_UUID)
    funding_source: str = Field(pattern=_UUID)
    base_url: HttpUrl = HttpUrl("https://api.dwolla.com")


class Details(CommonDetails):
    """The recipient's funding source: a bank account, or the balance of a customer."""

    funding_source: str = Field(pattern=_UUID)

    @property
    def masked_details(self) -> str:
        return f"funding source {last_four(self.funding_source)}"

    @property
    def provider_ref(self) -> str:
        return self.funding_source


class Dwolla(PayoutClient):
    details_model = Details
    options_model = Options
    options: Options

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._token = OAuthToken()

    def check(self, order: PayoutRequest) -> None:
        if order.currency != "USD":
            raise Invalid("dwolla pays in USD only")

    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        body = transfer_body(order, str(self.options.base_url), self.options.funding_source)
        try:
            made = await request(
                self._http,
                "POST",
                join_url(self.options.base_url, "transfers"),
                headers={**await self._headers(), "Idempotency-Key": key},
                json=body,
            )
        except ProviderRejected as error:
            if error.status == httpx.codes.CONFLICT:
                raise ProviderTimeout("is still processing the same request") from error
            raise
        if made is None:
            raise ProviderRejected("answers 404 to a transfer: check base_url", 404)
        id_ = made.headers["location"].rsplit("/", 1)[-1]
        return ProviderTransfer(id_, TransferStatus.ACCEPTED, order.amount, order.currency)

    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        found = self._list({"correlationId": order.id})
        mine = order.destinations | {order.details.provider_ref}
        return [_listed(each) async for each in found if self._leaves(each, mine)]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        mine = {name for each in orders for name in (*each.destinations, each.details.provider_ref)}
        # Dwolla documents these as "after" and "before": query one more day on both sides.
        days = {
            "startDate": f"{first - timedelta(days=1):%Y-%m-%d}",
            "endDate": f"{last + timedelta(days=1):%Y-%m-%d}",
        }
        async for transfer in self._list(days):
            each = _listed(transfer)
            if self._leaves(transfer, mine) and first <= each.created_at < last:
                yield each

    def _leaves(self, transfer: Object, destinations: Collection[str]) -> bool:
        """Return whether the transfer takes money out of our account. The account's list also has
        other legs and incoming transfers. A transfer to one of `destinations` is a payout even if
        that funding source is our own."""
        account = self.options.account_id
        if _linked(transfer, "source") not in {None, account}:
            return False
        to_us = _linked(transfer, "destination") == account
        return not to_us or _linked(transfer, "destination-funding-source") in destinations

    async def _list(self, query: dict[str, str]) -> AsyncIterator[Object]:
        offset = 0
        while True:
            page = await request_json(
                self._http,
                "GET",
                join_url(self.options.base_url, "accounts", self.options.account_id, "transfers"),
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
        return await request_json(
            self._http,
            "POST",
            join_url(self.options.base_url, "token"),
            data={"grant_type": "client_credentials"},
            auth=(self.options.key, self.options.secret.get_secret_value()),
        )


def transfer_body(order: PayoutRequest, base_url: str, source: str) -> dict[str, Any]:
    """Return the request body. The same payout gives the same bytes: Dwolla compares them with
    those first sent with the key."""
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
        "metadata": {"payout": order.id, "recipient": order.recipient_id},
        "correlationId": order.id,
    }


# https://developers.dwolla.com/docs/api-reference/transfers/transfers-resource
_FATES = {
    "pending": TransferStatus.ACCEPTED,
    "processed": TransferStatus.PAID,
    "failed": TransferStatus.FAILED,
    "cancelled": TransferStatus.FAILED,
    "reclaimed": TransferStatus.RETURNED,
}


def _listed(transfer: Object) -> ListedTransfer:
    currency = transfer["amount"]["currency"]
    return ListedTransfer(
        transfer["id"],
        _FATES[transfer["status"]],
        minor_units(transfer["amount"]["value"], currency),
        currency,
        _linked(transfer, "destination-funding-source"),
        reference=transfer.get("correlationId"),
        created_at=datetime.fromisoformat(transfer["created"]),
        recipient_id=(transfer.get("metadata") or {}).get("recipient"),
    )


def _linked(transfer: Object, relation: str) -> str | None:
    """Return the id of the linked resource, if any."""
    href: str | None = transfer["_links"].get(relation, {}).get("href")
    return href.rsplit("/", 1)[-1] if href else None
