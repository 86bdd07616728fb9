"""Response bodies of the API."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from common.http.resources import View
from common.resilience.circuit_store import CircuitView
from payouts.domain import State
from payouts.ledger.entries import Funding
from payouts.schemas import Schedule
from payouts.settings import Priority

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request cannot be executed as sent: change it"},
    401: {"description": "the token is missing or invalid"},
    403: {"description": "the caller's role does not permit this, or a second user has to do it"},
    404: {"description": "not found"},
    409: {
        "description": "the resource's state does not permit this, or the key was used for another "
        "request"
    },
}


class RecipientView(View):
    reference: str
    name: str
    provider: str
    account: str
    currency: str
    masked_details: str = Field(
        description="the masked destination, for display; the full details are encrypted"
    )
    blocked: bool
    schedule: Schedule
    next_payout_at: datetime | None


class BalanceView(BaseModel):
    """Balances in minor units. `platform` is what the platform has put in: negative, the sum of the
    others."""

    model_config = ConfigDict(from_attributes=True)

    currency: str
    platform: int
    available: int
    pending: int
    paid: int
    fees: int


class LedgerEntryView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    at: datetime
    source: str
    target: str
    amount: int = Field(description="minor units")
    currency: str
    payout_id: str | None


class RecipientDetail(RecipientView):
    balances: list[BalanceView] = Field(default_factory=list)
    ledger: list[LedgerEntryView] = Field(default_factory=list, description="the newest 50 entries")


class PayoutView(View):
    recipient_id: str
    recipient: str = Field(description="the recipient's reference")
    description: str | None
    batch_id: str | None
    provider: str
    account: str
    amount: int = Field(description="minor units, the amount that the recipient receives")
    amount_returned: int = Field(
        description="minor units, the part that was returned while the payout stays paid"
    )
    fee: int = Field(description="minor units")
    currency: str
    funding: Funding
    priority: Priority
    state: State
    held: bool
    created_by: str
    credited_by: list[str] = Field(
        description="if it needs approval: the users who credited the money that it pays, and so "
        "cannot approve it"
    )
    approved_by: str | None
    adopted: bool = Field(
        description="whether it was recovered from the provider because a restored database "
        "lacked it"
    )
    due_at: datetime
    next_action_at: datetime | None = Field(
        description="when it is processed next; null if it is not"
    )
    attempt_count: int = Field(validation_alias=AliasChoices("attempt_count", "attempts"))
    failures: int
    transfer_id: str | None = Field(description="the provider's id of the transfer")
    error: str | None
    submitted_at: datetime | None
    paid_at: datetime | None
    updated_at: datetime


class AttemptView(BaseModel):
    """A send attempt. `outcome` is null while it runs; if the sending process died, until a status
    check finds that, or permanently if a webhook comes first."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    idempotency_key: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    transfer_id: str | None
    transfer_status: str | None = Field(
        description="the transfer's status, merged from all reports of the provider"
    )
    error: str | None


class AuditView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    position: int
    at: datetime
    actor: str
    role: str
    action: str
    before: str | None
    after: str | None
    reason: str | None
    hash: str


class AuditDetail(AuditView):
    subject: str
    data: dict[str, Any] = Field(description="the ledger entries and the changes of the action")


class PayoutDetail(PayoutView):
    # Not the row's `attempts`, which is a count.
    attempts: list[AttemptView] = Field(default_factory=list, validation_alias="_attempts")
    audit: list[AuditView] = Field(default_factory=list, description="the newest 100 entries")


class BatchView(View):
    name: str
    payouts: int
    created_by: str


class BatchDetail(BatchView):
    states: dict[str, int] = Field(default_factory=dict, description="number of payouts by state")


class ControlView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    paused: bool
    status_check_required_until: datetime | None = Field(
        default=None, description="until this time the provider is queried before anything is sent"
    )
    actor: str | None = None
    reason: str | None = None
    changed_at: datetime | None = None


class AccountView(BaseModel):
    """A payout account. Limits are in minor units by currency; `rate_per_second` applies to all
    workers together, `max_concurrency` to one worker."""

    path: str
    pays: bool = Field(
        description="false if the provider pays out automatically; its payouts are only reconciled"
    )
    limits: dict[str, int]
    approval_threshold: dict[str, int]
    rate_per_second: float
    max_concurrency: int


class RecoveryView(BaseModel):
    """A day (UTC) of an account that was not reconciled since the database was restored. Until it
    is, nothing is sent from the account or created there."""

    model_config = ConfigDict(from_attributes=True)

    provider: str
    account: str
    day: date
    requested_at: datetime
    fault: str | None = Field(description="why the last reconciliation did not complete it")


class Status(BaseModel):
    control: ControlView
    states: dict[str, int] = Field(description="number of payouts by state")
    held: int
    oldest_due_at: datetime | None = Field(
        description="the earliest due time of the approved payouts that are due"
    )
    circuits: list[CircuitView] = Field(
        description="circuit breakers that are not closed: nothing is sent to those systems"
    )
    accounts: list[AccountView] = Field(description="the accounts in the payout accounts file")
    open_discrepancies: int
    unreconciled: list[RecoveryView] = Field(
        description="days still to be reconciled after a restore; usually empty"
    )


class Volume(BaseModel):
    currency: str
    count: int
    amount: int = Field(description="minor units")


class Metrics(BaseModel):
    """Metrics of the payouts created within the time range."""

    since: datetime
    states: dict[str, int]
    success_rate: float | None = Field(
        description="the paid share of all completed payouts; null if there are none"
    )
    seconds_to_paid_p50: float | None
    seconds_to_paid_p95: float | None
    paid: list[Volume]


class DiscrepancyView(View):
    day: date
    provider: str
    account: str
    kind: str
    payout_id: str | None
    transfer_id: str | None
    ours: str | None
    theirs: str | None
    resolved_at: datetime | None
    resolved_by: str | None


class AuditPage(BaseModel):
    """A page of audit entries. `next_cursor` is null on the last page."""

    items: list[AuditDetail]
    next_cursor: str | None
