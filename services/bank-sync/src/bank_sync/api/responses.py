"""Response bodies."""

from __future__ import annotations

import datetime as dt
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from bank_sync.domain import Health, what_to_do
from common.http.resources import View

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request cannot be executed as sent: change it"},
    401: {"description": "the token is missing or invalid"},
    403: {"description": "the caller's role does not permit this"},
    404: {"description": "not found"},
    409: {"description": "the resource's state does not permit this"},
    502: {"description": "the provider failed or did not respond"},
    503: {
        "description": "the provider's rate limit is reached, or it cannot be queried now; "
        "Retry-After says when to retry"
    },
}


class LinkTokenView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    link_token: str
    expires_at: datetime


class ItemView(View):
    item_id: str = Field(description="the provider's id")
    client: str
    user: str
    institution_id: str | None
    health: Health
    health_reason: str | None = Field(description="the provider's own term for the reason")
    health_until: datetime | None = Field(description="when the link ends unless the user acts")
    health_at: datetime
    complete: bool = Field(description="whether the complete history is stored")
    synced_at: datetime | None
    resynced_at: datetime | None = Field(
        description="when everything was last read again, because Plaid refused the cursor"
    )
    removing_at: datetime | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def what_to_do(self) -> str | None:
        return what_to_do(self.health, self.health_reason)


class AccountView(View):
    """Balances in minor units; of an unofficial currency in hundred-millionths."""

    item: str
    account_id: str = Field(description="the provider's id")
    name: str
    official_name: str | None
    mask: str | None
    type: str
    subtype: str | None
    available: int | None
    current: int | None
    limit: int | None
    currency: str | None
    unofficial_currency: bool
    balance_at: datetime
    closed: bool = Field(description="whether the bank no longer lists the account")


class Balances(BaseModel):
    """`fresh` is whether the balances are as recent as requested; if not, the bank query failed."""

    fresh: bool
    accounts: list[AccountView]


class TransactionView(View):
    """`amount` is in minor units, positive when the money leaves the account."""

    item: str
    account: str
    transaction_id: str = Field(description="the provider's id")
    amount: int
    currency: str | None
    unofficial_currency: bool
    rounded: bool = Field(description="whether the bank's amount had more digits")
    date: dt.date
    authorized_date: dt.date | None
    at: datetime | None
    name: str
    merchant: str | None
    pending: bool
    pending_transaction_id: str | None
    channel: str | None
    category: str | None
    category_detailed: str | None


class Spent(BaseModel):
    """Money that left the accounts in one month (YYYY-MM) in one category, in minor units; of an
    unofficial currency in hundred-millionths."""

    month: str
    category: str
    currency: str | None
    unofficial_currency: bool
    amount: int
    transactions: int


class SyncView(View):
    item: str
    cause: str
    status: str
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    attempts: int
    restarts: int = Field(
        description="how often reading restarted because the data changed meanwhile"
    )
    pages: int
    added: int
    modified: int
    removed: int
    error: str | None


class InstitutionView(View):
    institution_id: str
    name: str
    url: str | None
    oauth: bool


class HourView(BaseModel):
    """Outcomes of the syncs at an institution in the hour that begins at `hour` (UTC)."""

    model_config = ConfigDict(from_attributes=True)

    hour: datetime
    succeeded: int
    failed: int
    last_error: str | None
