"""HTTP API for billing: operations on subscriptions and customers at Stripe. Subscriptions paid by
mobile money have neither cards nor prorations: an operation they do not support is rejected, and
the message names the alternative."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response, status
from pydantic import BaseModel, ConfigDict, Field

from common.clients.accounts_file import DEFAULT
from common.db import tenant_rows
from common.errors import Invalid
from common.http.auth import Operator, Viewer
from common.http.resources import Cursor, IdempotencyKey, Limit, Page, Session, View, page, provided
from common.http.return_urls import ReturnUrl
from subscription.api.subscriptions import PROBLEMS
from subscription.billing.commands import BillingCommands
from subscription.models import OURS, Command, Customer, Subscription
from subscription.providers.registry import Accounts, Billing
from subscription.schemas.billing import (
    ApplyCoupon,
    Cancel,
    ChangePlan,
    CommandRequest,
    CommandStatus,
    Detach,
    Name,
    NewSetupIntent,
    NewSubscription,
    Resume,
    SetDefault,
)
from subscription.subscriptions import cancellation

router = APIRouter(prefix="/v1", tags=["billing"])

Account = Annotated[
    str,
    Query(pattern=r"^[a-z0-9_-]{1,64}$", description="a Stripe account in the accounts file"),
]


class CommandView(View):
    """A billing command. `accepted` means that its outcome is not known yet: it is executed once.
    `confirmed_at` is when a webhook confirmed it (UTC); the subscription here then shows it."""

    kind: str
    subject: str = Field(description="the provider's customer or subscription")
    status: CommandStatus
    result: dict[str, Any] | None
    error: str | None
    confirmed_at: datetime | None


class MethodView(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str
    type: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    default: bool


class InvoiceView(BaseModel):
    """An invoice. Amounts are in minor units."""

    id: str
    number: str | None
    status: str | None
    currency: str
    amount_due: int
    amount_paid: int
    created: datetime
    page_url: str | None = Field(description="where the customer sees and pays the invoice")
    pdf_url: str | None


class Preview(BaseModel):
    """The next invoice if the plan changed now. Amounts are in minor units."""

    currency: str
    amount_due: int
    subtotal: int
    total: int
    lines: list[dict[str, Any]]


class NewPortalSession(BaseModel):
    return_url: ReturnUrl


class PortalSession(BaseModel):
    url: str


class Runner:
    """FastAPI dependency that runs a command; it responds 202 if the command is accepted but not
    known to be done."""

    def __init__(
        self, commands: Annotated[BillingCommands, provided(BillingCommands)], response: Response
    ) -> None:
        self._commands = commands
        self._response = response

    async def __call__(
        self, tenant: str, account: str, key: str, subject: str, body: CommandRequest
    ) -> CommandView:
        row = await self._commands.execute(tenant, account, key, subject, body)
        if row.status == CommandStatus.ACCEPTED:
            self._response.status_code = status.HTTP_202_ACCEPTED
        return CommandView.model_validate(row)


Run = Annotated[Runner, Depends(Runner)]
Called = Annotated[Accounts, provided(Accounts)]
_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {
        "model": CommandView,
        "description": "the outcome is not known yet: the command is executed once",
    },
    400: {"description": "the request cannot be executed as sent: change it"},
    409: {"description": "the key was used for another command"},
    422: {"description": "not a valid command, or Stripe refused it: use another key"},
    503: {"description": "nothing was done, and nothing will be unless the command is sent again"},
}


@router.post("/customers/{id_}/subscriptions", status_code=201, responses=_ANSWERS)
async def subscribe(
    caller: Operator, run: Run, session: Session, id_: str, body: NewSubscription,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    """Subscribe a customer with a payment method to a plan; a trial and a coupon are optional."""
    subject = await _customer(session, caller.tenant, id_)
    return await run(caller.tenant, account, idempotency_key, subject, body)


@router.post("/subscriptions/{id_}/plan", responses=_ANSWERS)
async def change_plan(
    caller: Operator, run: Run, session: Session, id_: str, body: ChangePlan,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    """Change the plan: now, with or without proration, or at the end of the period."""
    instead = "start a checkout for the other plan: POST /v1/checkouts"
    subject = await _subscription(session, caller.tenant, id_, instead)
    return await run(caller.tenant, account, idempotency_key, subject, body)


@router.get("/subscriptions/{id_}/plan/preview", responses=PROBLEMS)
async def preview_plan(
    caller: Viewer, accounts: Called, session: Session, id_: str, plan_id: Name,
    prorate: bool = True, account: Account = DEFAULT,
) -> Preview:  # fmt: skip
    """Preview the next invoice after a change of plan."""
    instead = "its price is the next checkout's"
    subject = await _subscription(session, caller.tenant, id_, instead)
    async with _calling(accounts, caller.tenant, account) as api:
        return Preview.model_validate(await api.api.preview(subject, plan_id, prorate=prorate))


@router.post("/subscriptions/{id_}/cancel", responses=_ANSWERS)
async def cancel(
    caller: Operator, run: Run, session: Session, id_: str, body: Cancel,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    """Cancel the subscription, now or at the end of the period."""
    return await _end_or_go_on(run, session, (caller.tenant, account, idempotency_key), id_, body)


@router.post("/subscriptions/{id_}/resume", responses=_ANSWERS)
async def resume(
    caller: Operator, run: Run, session: Session, id_: str,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    """Undo a cancellation at the end of the period."""
    return await _end_or_go_on(
        run, session, (caller.tenant, account, idempotency_key), id_, Resume()
    )


@router.post("/subscriptions/{id_}/coupon", responses=_ANSWERS)
async def apply_coupon(
    caller: Operator, run: Run, session: Session, id_: str, body: ApplyCoupon,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    instead = "start the next checkout with the lower amount"
    subject = await _subscription(session, caller.tenant, id_, instead)
    return await run(caller.tenant, account, idempotency_key, subject, body)


@router.post("/customers/{id_}/setup-intents", status_code=201, responses=_ANSWERS)
async def create_setup_intent(
    caller: Operator, run: Run, session: Session, id_: str,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    """Create a setup intent for adding a payment method in a browser. Its `client_secret` is
    returned in `result` and is not stored."""
    subject = await _customer(session, caller.tenant, id_)
    return await run(caller.tenant, account, idempotency_key, subject, NewSetupIntent())


@router.get("/customers/{id_}/payment-methods", responses=PROBLEMS)
async def list_payment_methods(
    caller: Viewer, accounts: Called, session: Session, id_: str, account: Account = DEFAULT
) -> list[MethodView]:
    """List the customer's payment methods (cards) as Stripe has them now."""
    subject = await _customer(session, caller.tenant, id_)
    async with _calling(accounts, caller.tenant, account) as api:
        found = await api.api.payment_methods(subject)
    return [MethodView.model_validate(each) for each in found]


@router.put("/customers/{id_}/payment-methods/{method}/default", responses=_ANSWERS)
async def set_default_method(
    caller: Operator, run: Run, session: Session, id_: str, method: Name,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    subject = await _customer(session, caller.tenant, id_)
    body = SetDefault(payment_method=method)
    return await run(caller.tenant, account, idempotency_key, subject, body)


@router.delete("/customers/{id_}/payment-methods/{method}", responses=_ANSWERS)
async def detach_method(
    caller: Operator, run: Run, session: Session, id_: str, method: Name,
    idempotency_key: IdempotencyKey, account: Account = DEFAULT,
) -> CommandView:  # fmt: skip
    subject = await _customer(session, caller.tenant, id_)
    body = Detach(payment_method=method)
    return await run(caller.tenant, account, idempotency_key, subject, body)


@router.get("/customers/{id_}/invoices", responses=PROBLEMS)
async def list_invoices(
    caller: Viewer, accounts: Called, session: Session, id_: str, account: Account = DEFAULT
) -> list[InvoiceView]:
    """List the newest hundred invoices as Stripe has them now, with links to their documents."""
    subject = await _customer(session, caller.tenant, id_)
    async with _calling(accounts, caller.tenant, account) as api:
        found = await api.api.invoices(subject)
    return [InvoiceView.model_validate(each) for each in found]


@router.post("/customers/{id_}/portal-sessions", status_code=201, responses=PROBLEMS)
async def create_portal_session(
    caller: Operator, accounts: Called, session: Session, id_: str, body: NewPortalSession,
    account: Account = DEFAULT,
) -> PortalSession:  # fmt: skip
    """Create a session of Stripe's customer portal, a page where the customer manages all of this.
    Its URL is valid for minutes."""
    subject = await _customer(session, caller.tenant, id_)
    async with _calling(accounts, caller.tenant, account) as api:
        return PortalSession(url=await api.api.portal(subject, str(body.return_url)))


@router.get("/commands")
async def list_commands(
    caller: Viewer,
    session: Session,
    status_: Annotated[CommandStatus | None, Query(alias="status")] = None,
    kind: str | None = None,
    subject: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[CommandView]:
    filters = {"status": status_, "kind": kind, "subject": subject}
    return await page(session, Command, CommandView, caller.tenant, filters, cursor, limit)


@router.get("/commands/{id_}")
async def get_command(caller: Viewer, session: Session, id_: str) -> CommandView:
    return CommandView.model_validate(
        await tenant_rows.get_for_tenant(session, Command, caller.tenant, id_)
    )


async def _end_or_go_on(
    run: Runner, session: Session, who: tuple[str, str, str], id_: str, body: Cancel | Resume
) -> CommandView:
    """Run a cancellation or a resumption. `who` is the tenant, the account and the key. Paybus
    itself executes it for a subscription paid by mobile money."""
    tenant, account, key = who
    async with session.begin():
        row = await tenant_rows.get_for_tenant(session, Subscription, tenant, id_)
        subject = row.provider_subscription_id
        if row.provider == OURS:
            command = await cancellation.run(session, row, key, body)
            return CommandView.model_validate(command)
    return await run(tenant, account, key, subject, body)


def _calling(accounts: Accounts, tenant: str, account: str) -> AbstractAsyncContextManager[Billing]:
    return accounts.billing(tenant, account).calling()


async def _customer(session: Session, tenant: str, id_: str) -> str:
    """Return Stripe's id of the customer. No transaction is open while Stripe is queried."""
    async with session.begin():
        row = await tenant_rows.get_for_tenant(session, Customer, tenant, id_)
        if row.provider == OURS:
            raise Invalid(
                "this customer pays by mobile money, and has no cards: start a checkout, "
                "POST /v1/checkouts"
            )
        return row.provider_customer_id


async def _subscription(session: Session, tenant: str, id_: str, instead: str) -> str:
    async with session.begin():
        row = await tenant_rows.get_for_tenant(session, Subscription, tenant, id_)
        if row.provider == OURS:
            raise Invalid(f"this subscription is paid by mobile money: {instead}")
        return row.provider_subscription_id
