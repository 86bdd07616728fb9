"""Stripe Connect, through the official SDK: transfers to connected accounts, and payouts from a
connected account's balance to its bank.

https://docs.stripe.com/connect/separate-charges-and-transfers, https://docs.stripe.com/api/payouts
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import httpx
import stripe
from pydantic import Field, HttpUrl, SecretStr

from common.errors import Invalid, RateLimited, Upstream
from common.outside import NoAnswer, NotAuthorized, Refused
from payouts import clients
from payouts.clients import Listed, ListingClient, Order, last_four
from payouts.domain import Fate, Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stripe.params import PayoutCreateParams, TransferCreateParams
    from stripe.params._transfer_list_params import TransferListParamsCreated

_RETRY_AFTER_SECONDS = 5.0
# https://docs.stripe.com/currencies#special-cases
_OTHER_MINOR_UNITS = frozenset({"ISK", "UGX", "MGA"})
_REFERENCE = "paybus_payout"
_PAGE = 100


class Options(clients.Options):
    """`api_key` may write Transfers and Payouts."""

    api_key: SecretStr
    base_url: HttpUrl = HttpUrl("https://api.stripe.com")


class Details(clients.Details):
    """A connected account; `via` is whether it is sent there, or from there to its bank."""

    account: str = Field(pattern=r"^acct_[A-Za-z0-9_]{1,60}$")
    via: Literal["transfer", "payout"] = "transfer"

    @property
    def shown(self) -> str:
        return f"{self.via} {last_four(self.account)}"

    @property
    def handle(self) -> str:
        return self.account


class Stripe(ListingClient):
    details_model = Details
    options_model = Options
    options: Options

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._client = stripe.StripeClient(
            options.api_key.get_secret_value(),
            base_addresses={"api": str(options.base_url).rstrip("/")},
            http_client=stripe.HTTPXClient(timeout=http.timeout),
            max_network_retries=0,
        )

    def check(self, order: Order) -> None:
        if order.currency in _OTHER_MINOR_UNITS:
            raise Invalid(f"stripe counts {order.currency} in other units than ISO 4217")

    async def send(self, order: Order, key: str) -> Found:
        details = _details(order)
        with _answers():
            if details.via == "transfer":
                made = await self._client.v1.transfers.create_async(
                    transfer_params(order), {"idempotency_key": key}
                )
                return _transfer(made)
            paid = await self._client.v1.payouts.create_async(
                payout_params(order), {"idempotency_key": key, "stripe_account": details.account}
            )
            return _payout(paid)

    async def find(self, order: Order, since: datetime) -> Sequence[Listed]:
        details = _details(order)
        with _answers():
            if details.via == "transfer":
                listed = await self._client.v1.transfers.list_async(
                    {"transfer_group": order.id, "limit": _PAGE}
                )
                return [_listed(_transfer(e), e.transfer_group, e.created) for e in listed.data]
            # Payouts can't be searched for by what we called them.
            of_account = await self._client.v1.payouts.list_async(
                {"created": {"gte": int(since.timestamp()) - 1}, "limit": _PAGE},
                {"stripe_account": details.account},
            )
            return [
                _listed(_payout(each), order.id, each.created)
                async for each in of_account.auto_paging_iter()
                if _reference(each) == order.id
            ]

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[Order]
    ) -> AsyncIterator[Listed]:
        created: TransferListParamsCreated = {
            "gte": int(first.timestamp()),
            "lt": int(last.timestamp()),
        }
        with _answers():
            sent = await self._client.v1.transfers.list_async({"created": created, "limit": _PAGE})
            async for transfer in sent.auto_paging_iter():
                yield _listed(_transfer(transfer), transfer.transfer_group, transfer.created)
            via_payout = {d.account for each in orders if (d := _details(each)).via == "payout"}
            for account in sorted(via_payout):
                paid = await self._client.v1.payouts.list_async(
                    {"created": created, "limit": _PAGE},
                    {"stripe_account": account},
                )
                async for payout in paid.auto_paging_iter():
                    if payout.automatic:
                        continue  # by the account's own schedule, not ours
                    yield _listed(_payout(payout), _reference(payout), payout.created)


def transfer_params(order: Order) -> TransferCreateParams:
    """https://docs.stripe.com/api/transfers/create"""
    params: TransferCreateParams = {
        "amount": order.amount,
        "currency": order.currency.lower(),
        "destination": _details(order).account,
        "transfer_group": order.id,
        "metadata": {_REFERENCE: order.id},
    }
    if order.description:
        params["description"] = order.description
    return params


def payout_params(order: Order) -> PayoutCreateParams:
    """https://docs.stripe.com/api/payouts/create"""
    params: PayoutCreateParams = {
        "amount": order.amount,
        "currency": order.currency.lower(),
        "metadata": {_REFERENCE: order.id},
    }
    if order.description:
        params["description"] = order.description
    return params


def _details(order: Order) -> Details:
    assert isinstance(order.details, Details)
    return order.details


def _transfer(transfer: stripe.Transfer) -> Found:
    """A transfer is in the connected account's balance as soon as it is made."""
    fate = Fate.RETURNED if transfer.reversed else Fate.PAID
    return Found(transfer.id, fate, transfer.amount, transfer.currency.upper())


# https://docs.stripe.com/api/payouts/object#payout_object-status
_PAYOUT_FATES = {
    "paid": Fate.PAID,
    "pending": Fate.ACCEPTED,
    "in_transit": Fate.ACCEPTED,
    "canceled": Fate.FAILED,
    "failed": Fate.FAILED,
}


def _payout(payout: stripe.Payout) -> Found:
    return Found(payout.id, _PAYOUT_FATES[payout.status], payout.amount, payout.currency.upper())


def _reference(payout: stripe.Payout) -> str | None:
    metadata = payout.metadata
    return metadata[_REFERENCE] if metadata and _REFERENCE in metadata else None


def _listed(found: Found, reference: str | None, created: int) -> Listed:
    at = datetime.fromtimestamp(created, UTC)
    return Listed(found.transfer_id, found.fate, found.amount, found.currency, reference, at)


@contextmanager
def _answers() -> Iterator[None]:
    """The SDK's errors in our words."""
    try:
        yield
    except stripe.RateLimitError as error:
        raise RateLimited("asked too often", _RETRY_AFTER_SECONDS) from error
    except stripe.PermissionError as error:
        if error.code == "account_invalid":  # a connected account that has taken our access away
            raise Refused(f"answers 403: {error.user_message}", 403) from error
        raise NotAuthorized(f"answers 403: check what the api_key may do ({error.code})") from error
    except stripe.AuthenticationError as error:
        raise NotAuthorized(f"answers {error.http_status}: check the api_key") from error
    except (stripe.InvalidRequestError, stripe.CardError) as error:
        said = f"{error.code or ''} {error.user_message}".strip()
        raise Refused(f"answers {error.http_status}: {said}", error.http_status or 400) from error
    except stripe.APIConnectionError as error:
        raise NoAnswer("gave no answer (APIConnectionError)") from error
    except stripe.StripeError as error:
        said = f"answers {error.http_status} ({type(error).__name__})"
        if error.http_status == httpx.codes.INTERNAL_SERVER_ERROR:
            raise Upstream(said) from error
        raise NoAnswer(said) from error  # the key is busy, or somebody in between gave up
