"""Stripe Connect, through the official SDK: transfers to connected accounts, and payouts from a
connected account's balance to its bank.

https://docs.stripe.com/connect/separate-charges-and-transfers, https://docs.stripe.com/api/payouts
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import httpx
import stripe
from pydantic import Field, HttpUrl, SecretStr

from common.clients.stripe import (
    API,
    check_amount,
    from_stripe,
    step,
    stripe_answers,
    stripe_client,
    to_stripe,
)
from common.errors import ProviderRejected
from common.observability.logging import get_logger
from payouts.domain import ProviderTransfer, TransferStatus
from payouts.providers import base
from payouts.providers.base import ListedTransfer, PayoutClient, PayoutRequest, last_four

if TYPE_CHECKING:
    from stripe.params import PayoutCreateParams, TransferCreateParams
    from stripe.params._transfer_list_params import TransferListParamsCreated

log = get_logger(__name__)

_REFERENCE = "paybus_payout"
_RECIPIENT = "paybus_recipient"
_PAGE = 100


class Options(base.Options):
    """Options of a Stripe account. `api_key` needs permission to write Transfers and Payouts."""

    api_key: SecretStr
    base_url: HttpUrl = API


class Details(base.RecipientDetails):
    """A connected account. `via` is `transfer` (to its balance) or `payout` (from its balance to
    its bank)."""

    account: str = Field(pattern=r"^acct_[A-Za-z0-9_]{1,60}$")
    via: Literal["transfer", "payout"] = "transfer"

    @property
    def masked_details(self) -> str:
        return f"{self.via} {last_four(self.account)}"

    @property
    def provider_ref(self) -> str:
        return self.account


class Stripe(PayoutClient):
    details_model = Details
    options_model = Options
    options: Options

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._client = stripe_client(options.api_key, options.base_url, timeout=http.timeout)

    def check(self, order: PayoutRequest) -> None:
        check_amount(order.amount, order.currency, payout=_details(order).via == "payout")

    def step(self, currency: str, details: base.RecipientDetails) -> int:
        assert isinstance(details, Details)
        return step(currency, payout=details.via == "payout")

    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        details = _details(order)
        with stripe_answers():
            if details.via == "transfer":
                made = await self._client.v1.transfers.create_async(
                    transfer_params(order), {"idempotency_key": key}
                )
                return _transfer(made)
            paid = await self._client.v1.payouts.create_async(
                payout_params(order), {"idempotency_key": key, "stripe_account": details.account}
            )
            return _payout(paid, details.account)

    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        details = _details(order)
        with stripe_answers():
            if details.via == "transfer":
                listed = await self._client.v1.transfers.list_async(
                    {"transfer_group": order.id, "limit": _PAGE}
                )
                return [_listed(_transfer(e), e.transfer_group, e) for e in listed.data]
            # Payouts can't be searched for by our reference.
            of_account = await self._client.v1.payouts.list_async(
                {"created": {"gte": int(since.timestamp()) - 1}, "limit": _PAGE},
                {"stripe_account": details.account},
            )
            return [
                _listed(_payout(each, details.account), order.id, each)
                async for each in of_account.auto_paging_iter()
                if _reference(each) == order.id
            ]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        created: TransferListParamsCreated = {
            "gte": int(first.timestamp()),
            "lt": int(last.timestamp()),
        }
        with stripe_answers():
            sent = await self._client.v1.transfers.list_async({"created": created, "limit": _PAGE})
            async for transfer in sent.auto_paging_iter():
                yield _listed(_transfer(transfer), transfer.transfer_group, transfer)
        via_payout = {d.account for each in orders if (d := _details(each)).via == "payout"}
        for account in sorted(via_payout):
            try:
                async for listed in self._of_account(account, created):
                    yield listed
            except ProviderRejected as error:  # an account that revoked access hides only its own
                log.warning(
                    "provider_account_listing_failed", account=last_four(account), error=str(error)
                )

    async def _of_account(
        self, account: str, created: TransferListParamsCreated
    ) -> AsyncIterator[ListedTransfer]:
        with stripe_answers():
            paid = await self._client.v1.payouts.list_async(
                {"created": created, "limit": _PAGE}, {"stripe_account": account}
            )
            async for payout in paid.auto_paging_iter():
                if not payout.automatic:  # made by the account's own schedule, not by us
                    listed = _listed(_payout(payout, account), _reference(payout), payout)
                    yield replace(listed, of_recipient=True)


def transfer_params(order: PayoutRequest) -> TransferCreateParams:
    """Return the request of a transfer: https://docs.stripe.com/api/transfers/create"""
    params: TransferCreateParams = {
        "amount": to_stripe(order.amount, order.currency),
        "currency": order.currency.lower(),
        "destination": _details(order).account,
        "transfer_group": order.id,
        "metadata": {_REFERENCE: order.id, _RECIPIENT: order.recipient_id},
    }
    if order.description:
        params["description"] = order.description
    return params


def payout_params(order: PayoutRequest) -> PayoutCreateParams:
    """Return the request of a payout: https://docs.stripe.com/api/payouts/create"""
    params: PayoutCreateParams = {
        "amount": to_stripe(order.amount, order.currency),
        "currency": order.currency.lower(),
        "metadata": {_REFERENCE: order.id, _RECIPIENT: order.recipient_id},
    }
    if order.description:
        params["description"] = order.description
    return params


def _details(order: PayoutRequest) -> Details:
    assert isinstance(order.details, Details)
    return order.details


def _transfer(transfer: stripe.Transfer) -> ProviderTransfer:
    """Convert a transfer: its money is in the connected account's balance as soon as it is made,
    except what came back. `reversed` is true only if all of it came back; `amount_reversed` is
    the sum of all parts:
    https://docs.stripe.com/api/transfers/object#transfer_object-amount_reversed"""
    transfer_status = TransferStatus.RETURNED if transfer.reversed else TransferStatus.PAID
    part = 0 if transfer.reversed else transfer.amount_reversed
    currency = transfer.currency.upper()
    amount, returned = (from_stripe(each, currency) for each in (transfer.amount, part))
    destination = transfer.destination
    to = destination if isinstance(destination, str) or destination is None else destination.id
    return ProviderTransfer(transfer.id, transfer_status, amount, currency, to, returned)


# https://docs.stripe.com/api/payouts/object#payout_object-status
_PAYOUT_FATES = {
    "paid": TransferStatus.PAID,
    "pending": TransferStatus.ACCEPTED,
    "in_transit": TransferStatus.ACCEPTED,
    "canceled": TransferStatus.FAILED,
    "failed": TransferStatus.FAILED,
}


def _payout(payout: stripe.Payout, account: str) -> ProviderTransfer:
    """Convert a connected account's payout. Its own `destination` is the bank, which Paybus does
    not know."""
    transfer_status = _PAYOUT_FATES[payout.status]
    currency = payout.currency.upper()
    return ProviderTransfer(
        payout.id, transfer_status, from_stripe(payout.amount, currency), currency, account
    )


def _reference(payout: stripe.Payout) -> str | None:
    return _noted(payout, _REFERENCE)


def _noted(thing: stripe.Payout | stripe.Transfer, key: str) -> str | None:
    metadata = thing.metadata
    return metadata[key] if metadata and key in metadata else None


def _listed(
    found: ProviderTransfer, reference: str | None, thing: stripe.Payout | stripe.Transfer
) -> ListedTransfer:
    return ListedTransfer(
        **vars(found),
        reference=reference,
        created_at=datetime.fromtimestamp(thing.created, UTC),
        recipient_id=_noted(thing, _RECIPIENT),
    )
