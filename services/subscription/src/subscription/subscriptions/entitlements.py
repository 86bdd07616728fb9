"""Entitlements of a customer: read often, returned quickly, even while the database is down."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy.exc
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.subscriptions import Status
from common.db.database import Sessions
from common.errors import NotFound, Unavailable, describe
from common.observability.logging import get_logger
from common.resilience.cache import Cache
from subscription import repository
from subscription.domain import Item
from subscription.models import Plan, Subscription
from subscription.subscriptions import store

log = get_logger(__name__)

# Maximum age of a result, so that it is right within a second of the event.
_FRESH_SECONDS: Final = 0.8
# How long the last result is returned if no newer one can be determined.
_LAST_KNOWN_SECONDS: Final = 24 * 3600
_PATIENCE_SECONDS: Final = 2.0


class Entitlement(BaseModel):
    """A plan that a subscription entitles its customer to, by the tenant's policy; a subscription
    to several plans has one entry for each. `until` is the end of the time paid so far, or of the
    subscription if that is earlier."""

    subscription_id: str
    plan_id: str | None
    quantity: int | None = Field(
        description="the quantity of a provider's subscription; null for a metered plan"
    )
    plan: str | None = Field(description="the provider's or the shop's id of the plan")
    name: str | None
    status: Status
    until: datetime | None
    ends: bool = Field(description="whether it is not renewed after `until`")


class Entitlements(BaseModel):
    """A customer's entitlements. `stale` is whether this is the last known result because the
    database cannot be queried; `as_of` is its time (UTC)."""

    customer: str
    entitled: bool
    plans: list[Entitlement]
    as_of: datetime
    stale: bool = False


class EntitlementService:
    def __init__(self, sessions: Sessions, cache: Cache) -> None:
        self._sessions = sessions
        self._cache = cache

    async def get(self, tenant: str, customer: str) -> Entitlements:
        """Return the customer's entitlements. `customer` is our id, or the provider's or the shop's
        reference. Raise `NotFound`; and `Unavailable` if the database is down and no result is
        cached."""
        known = _known(await self._cache.get(tenant, customer))
        if known is not None and 0 <= _age(known) < _FRESH_SECONDS:
            return known
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), self._sessions() as session:
                found = await _read(session, tenant, customer)
        except (sqlalchemy.exc.SQLAlchemyError, TimeoutError, OSError) as error:
            if known is None:
                raise Unavailable(
                    "the database does not respond, and no earlier result is known"
                ) from error
            log.warning("entitlements_served_stale", error=describe(error))
            return known.model_copy(update={"stale": True})
        value = found.model_dump(mode="json")
        await self._cache.set(tenant, customer, value, seconds=_LAST_KNOWN_SECONDS)
        return found


def _known(kept: Any) -> Entitlements | None:
    """Return the cached result; None if there is none, or another version stored it."""
    try:
        return Entitlements.model_validate(kept) if kept is not None else None
    except ValidationError:
        return None


def _age(known: Entitlements) -> float:
    return (datetime.now(UTC) - known.as_of).total_seconds()


async def _read(session: AsyncSession, tenant: str, customer: str) -> Entitlements:
    as_of = datetime.now(UTC)
    ids = await repository.customers_called(session, tenant, customer)
    if not ids:
        raise NotFound(f"there is no customer {customer!r}")
    found = await repository.entitling_subscriptions(session, tenant, ids)
    items = [(row, item) for row in found for item in store.items_of(row)]
    named = await repository.plans(session, {item.plan_id for _, item in items})
    named_plans = {plan.id: plan for plan in named}
    plans = [_entitlement(row, item, named_plans.get(item.plan_id)) for row, item in items]
    return Entitlements(customer=customer, entitled=bool(plans), plans=plans, as_of=as_of)


def _entitlement(row: Subscription, item: Item, plan: Plan | None) -> Entitlement:
    ends = (item.current_period_end or row.current_period_end, row.cancel_at)
    return Entitlement(
        subscription_id=row.id,
        plan_id=item.plan_id or None,
        quantity=item.quantity,
        plan=plan.provider_plan_id if plan else None,
        name=plan.name if plan else None,
        status=Status(row.status),
        until=min(filter(None, ends), default=None),
        ends=row.cancel_at_period_end or row.cancel_at is not None,
    )
