"""HTTP API for starting checkouts, and for reading plans, customers, payments and subscriptions of
the caller's tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.subscriptions import Status
from common.db import pagination, tenant_rows
from common.errors import NotFound
from common.http.auth import Admin, Operator, Viewer
from common.http.resources import (
    Cursor,
    IdempotencyKey,
    Limit,
    Page,
    Session,
    View,
    as_page,
    page,
    provided,
)
from subscription import models, repository
from subscription.checkouts.service import CheckoutService
from subscription.checkouts.status import CheckoutStatus
from subscription.domain import ReversalKind
from subscription.schemas.checkout import EntitlementPolicy, NewCheckout, ProviderName
from subscription.subscriptions.entitlements import Entitlements, EntitlementService

router = APIRouter(prefix="/v1", tags=["subscription"])


class ProviderView(View):
    provider: str


class PlanView(ProviderView):
    provider_plan_id: str
    name: str | None
    amount: int | None = Field(description="minor units; null if the price is not fixed")
    currency: str | None
    interval: str | None
    interval_count: int = Field(description="it is charged every so many intervals")


class CustomerView(ProviderView):
    provider_customer_id: str
    email: str | None
    name: str | None
    deleted_at: datetime | None = Field(description="when the provider deleted the customer")


class ReversalView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    kind: str = Field(description="`refund`, `refund_failed` or `dispute`")
    status: str | None = Field(
        description="of a dispute: `inquiry`, `open`, `won` or `lost`; null for refunds"
    )
    amount: int = Field(
        description="minor units: of a refund, the total of the charge's refunds so far, without "
        "those that failed"
    )
    currency: str
    reason: str | None
    reported_at: datetime = Field(description="when it was first reported")


class PaymentView(ProviderView):
    provider_payment_id: str
    customer_id: str | None
    subscription_id: str | None
    paid: bool
    amount: int = Field(description="minor units")
    currency: str
    reason: str | None = Field(description="why the last attempt failed, if none succeeded")
    reported_at: datetime
    checkout_id: str | None = Field(description="the checkout of ours that it pays")
    amount_refunded: int = Field(default=0, description="minor units")
    reversals: list[ReversalView] = Field(default_factory=list)


class ItemView(BaseModel):
    """One of the plans of a provider's subscription."""

    plan_id: str
    quantity: int | None = Field(description="null for a metered plan")
    current_period_end: datetime | None


class SubscriptionView(ProviderView):
    provider_subscription_id: str
    customer_id: str
    status: Status
    plan_id: str | None = Field(description="the plan of the first item")
    items: list[ItemView]
    entitles: bool = Field(description="whether the policy entitles the customer to the plan")
    current_period_end: datetime | None
    cancel_at_period_end: bool
    cancel_at: datetime | None = Field(description="when it ends, if that is decided")
    trialing: bool
    collection_paused: bool = Field(description="whether Stripe collects no payments for now")
    refunded: bool = Field(description="whether the newest payment was refunded in full")
    disputed: bool = Field(description="whether the newest payment is disputed: open or lost")
    version: int = Field(description="the `sequence` of its last event")
    updated_at: datetime


class CheckoutView(ProviderView):
    account: str
    status: CheckoutStatus
    url: str | None = Field(
        description="where to send the payer; null while the checkout is starting, and if the "
        "provider prompts the payer's phone"
    )
    amount: int | None = Field(description="minor units")
    currency: str | None
    reference: str | None = Field(description="the provider's id of the payment")
    customer_id: str | None
    subscription_id: str | None = Field(
        description="the subscription that it extends; set by the first report"
    )
    expires_at: datetime | None
    paid_at: datetime | None
    error: str | None = Field(description="why it was refused, or the amount that was paid instead")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request cannot be executed as sent: change it"},
    409: {"description": "the key was used for another request"},
    422: {"description": "not a valid request, or the provider refused it: use another key"},
    502: {"description": "the outcome is not known: send the request again with the same key"},
    503: {"description": "temporarily unavailable: send the request again with the same key"},
}
Checkouts = Annotated[CheckoutService, provided(CheckoutService)]
EntitlementReader = Annotated[EntitlementService, provided(EntitlementService)]


@router.post("/checkouts", status_code=201, responses=PROBLEMS)
async def start_checkout(
    caller: Operator, checkouts: Checkouts, body: NewCheckout, idempotency_key: IdempotencyKey
) -> CheckoutView:
    row = await checkouts.start(caller.tenant, idempotency_key, body)
    return CheckoutView.model_validate(row)


@router.get("/checkouts")
async def list_checkouts(
    caller: Viewer,
    session: Session,
    status: CheckoutStatus | None = None,
    provider: ProviderName | None = None,
    customer_id: str | None = None,
    subscription_id: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[CheckoutView]:
    filters = {
        "status": status,
        "provider": provider,
        "customer_id": customer_id,
        "subscription_id": subscription_id,
    }
    return await page(session, models.Checkout, CheckoutView, caller.tenant, filters, cursor, limit)


@router.get("/checkouts/{id_}")
async def get_checkout(caller: Viewer, session: Session, id_: str) -> CheckoutView:
    row = await tenant_rows.get_for_tenant(session, models.Checkout, caller.tenant, id_)
    return CheckoutView.model_validate(row)


@router.get("/plans")
async def list_plans(
    caller: Viewer, session: Session, cursor: Cursor = None, limit: Limit = 50
) -> Page[PlanView]:
    return await page(session, models.Plan, PlanView, caller.tenant, {}, cursor, limit)


@router.get("/customers")
async def list_customers(
    caller: Viewer,
    session: Session,
    email: str | None = None,
    provider_customer_id: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[CustomerView]:
    filters = {"email": email, "provider_customer_id": provider_customer_id}
    return await page(session, models.Customer, CustomerView, caller.tenant, filters, cursor, limit)


@router.get("/customers/{id_}")
async def get_customer(caller: Viewer, session: Session, id_: str) -> CustomerView:
    row = await tenant_rows.get_for_tenant(session, models.Customer, caller.tenant, id_)
    return CustomerView.model_validate(row)


@router.get("/entitlements/{customer:path}")
async def get_entitlements(
    caller: Viewer, entitlements: EntitlementReader, customer: str
) -> Entitlements:
    """Return what the customer may use now. The result is at most a second old; if no newer one can
    be determined, the last known result is returned. `customer` is our id, or the provider's or the
    shop's name for the customer."""
    return await entitlements.get(caller.tenant, customer)


@router.get("/entitlement-policy")
async def get_policy(caller: Viewer, session: Session) -> EntitlementPolicy:
    """Return what the tenant's customers may use while they do not pay."""
    policy, _ = await repository.policy(session, caller.tenant)
    return policy


@router.put("/entitlement-policy")
async def set_policy(caller: Admin, session: Session, body: EntitlementPolicy) -> EntitlementPolicy:
    """Change the entitlement policy. Omitted fields keep their values. Subscriptions follow within
    `RENEWALS_INTERVAL_SECONDS`."""
    async with session.begin():
        before, _ = await repository.policy(session, caller.tenant)
        after = before.model_copy(update=body.model_dump(exclude_unset=True))
        await repository.set_policy(session, caller.tenant, after, caller.subject)
    return after


@router.get("/payments")
async def list_payments(
    caller: Viewer,
    session: Session,
    paid: bool | None = None,
    customer_id: str | None = None,
    subscription_id: str | None = None,
    provider_payment_id: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[PaymentView]:
    filters = {
        "paid": paid,
        "customer_id": customer_id,
        "subscription_id": subscription_id,
        "provider_payment_id": provider_payment_id,
    }
    query = repository.listed_payments(tenant_rows.filtered(models.Payment, caller.tenant, filters))
    found, more = await pagination.page(session, query, models.Payment, cursor=cursor, limit=limit)
    return as_page(await _payment_views(session, found), more)


@router.get("/payments/{id_}")
async def get_payment(caller: Viewer, session: Session, id_: str) -> PaymentView:
    row = await tenant_rows.get_for_tenant(session, models.Payment, caller.tenant, id_)
    if row.paid is None:
        raise NotFound(f"the payment {id_!r} was not reported yet")
    return (await _payment_views(session, [row]))[0]


@router.get("/subscriptions")
async def list_subscriptions(
    caller: Viewer,
    session: Session,
    status: Status | None = None,
    customer_id: str | None = None,
    plan_id: str | None = None,
    provider_subscription_id: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[SubscriptionView]:
    filters = {
        "status": status,
        "customer_id": customer_id,
        "plan_id": plan_id,
        "provider_subscription_id": provider_subscription_id,
    }
    return await page(
        session, models.Subscription, SubscriptionView, caller.tenant, filters, cursor, limit
    )


@router.get("/subscriptions/{id_}")
async def get_subscription(caller: Viewer, session: Session, id_: str) -> SubscriptionView:
    row = await tenant_rows.get_for_tenant(session, models.Subscription, caller.tenant, id_)
    return SubscriptionView.model_validate(row)


async def _payment_views(
    session: AsyncSession, payments: Sequence[models.Payment]
) -> list[PaymentView]:
    reversals = await repository.reversals_of(session, payments)
    return [_payment_view(row, reversals[row.id]) for row in payments]


def _payment_view(row: models.Payment, reversals: Sequence[models.Reversal]) -> PaymentView:
    refunded = sum(each.amount for each in reversals if each.kind == ReversalKind.REFUND)
    shown = [ReversalView.model_validate(each) for each in reversals]
    return PaymentView.model_validate(row).model_copy(
        update={"amount_refunded": refunded, "reversals": shown}
    )
