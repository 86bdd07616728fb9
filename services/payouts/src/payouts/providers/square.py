"""Square, read only, through the official SDK: it pays its sellers on its own schedule, and its
payouts are compared with the ledger. https://developer.squareup.com/reference/square/payouts-api
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import httpx
from pydantic import Field, HttpUrl, SecretStr
from square import AsyncSquare
from square.core.api_error import ApiError

from common.errors import NotAuthorized, ProviderTimeout, RateLimited, Upstream
from payouts.domain import TransferStatus
from payouts.providers import base
from payouts.providers.base import ListedTransfer, PayoutRequest, ReadOnlyClient, last_four

if TYPE_CHECKING:
    from square.types.payout import Payout

_RETRY_AFTER_SECONDS = 30.0


class Options(base.Options):
    """Options of a Square account. `access_token` needs permission to read Payouts."""

    access_token: SecretStr
    base_url: HttpUrl = HttpUrl("https://connect.squareup.com")


class Details(base.RecipientDetails):
    """The location whose sales are paid out."""

    location_id: str = Field(pattern=r"^[A-Za-z0-9]{1,64}$")

    @property
    def masked_details(self) -> str:
        return f"location {last_four(self.location_id)}"

    @property
    def provider_ref(self) -> str:
        return self.location_id


class Square(ReadOnlyClient):
    details_model = Details
    options_model = Options
    options: Options

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._client = AsyncSquare(
            token=options.access_token.get_secret_value(),
            base_url=str(options.base_url).rstrip("/"),
            httpx_client=http,
        )

    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        """Return the transfers in `order.known`, the ids that Square has reported."""
        found = []
        for id_ in order.known:
            with _answers():
                answer = await self._client.payouts.get(
                    payout_id=id_, request_options={"max_retries": 0}
                )
            if answer.payout is not None:
                found.append(_listed(answer.payout))
        return found

    async def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        """Yield the payouts of the locations in `orders`."""
        locations = {each.details.provider_ref for each in orders}
        for location in sorted(locations):
            with _answers():
                pages = await self._client.payouts.list(
                    location_id=location,
                    begin_time=first.isoformat(),
                    end_time=last.isoformat(),
                    request_options={"max_retries": 0},
                )
                async for payout in pages:
                    yield _listed(payout)


_FATES = {
    "SENT": TransferStatus.ACCEPTED,
    "PAID": TransferStatus.PAID,
    "FAILED": TransferStatus.FAILED,
}


def _listed(payout: Payout) -> ListedTransfer:
    if payout.amount_money is None or payout.amount_money.amount is None or not payout.created_at:
        raise Upstream(f"lists the payout {payout.id} without an amount")
    return ListedTransfer(
        payout.id,
        _FATES[str(payout.status)],
        payout.amount_money.amount,
        str(payout.amount_money.currency),
        payout.location_id,
        reference=None,
        created_at=datetime.fromisoformat(payout.created_at),
    )


@contextmanager
def _answers() -> Iterator[None]:
    """Translate the SDK's errors into Paybus errors."""
    try:
        yield
    except ApiError as error:
        if error.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise RateLimited("limits the rate of calls", _RETRY_AFTER_SECONDS) from error
        if error.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            said = f"answers {error.status_code}: check the access_token"
            raise NotAuthorized(said) from error
        raise Upstream(f"answers {error.status_code}") from error
    except httpx.RequestError as error:
        raise ProviderTimeout(f"did not respond ({type(error).__name__})") from error
