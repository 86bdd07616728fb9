"""Stripe Billing, through the official SDK: what our commands do there, and what is read there.

https://docs.stripe.com/api. Each command can be begun again: it looks first whether it was done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import stripe
from stripe.params import SubscriptionCreateParams

from common.errors import RateLimited
from common.outside import NoAnswer, Refused
from common.stripe_sdk import from_stripe, stripe_answers, with_key
from subscription.billing import (
    ApplyCoupon,
    Attempt,
    Cancel,
    ChangePlan,
    Detach,
    NewSetupIntent,
    NewSubscription,
    Resume,
    SetDefault,
)
from subscription.models import COMMAND_IN_METADATA

_PAGE = 100


class StripeBilling:
    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def find(self, attempt: Attempt) -> dict[str, Any] | None:
        """What became of the command, if Stripe shows it to be done; None when it is not. Raises
        what `common.outside.call` raises."""
        subject = attempt.subject
        with stripe_answers():
            match attempt.wanted:
                case NewSubscription():
                    return await self._found_subscription(attempt)
                case SetDefault(payment_method=method):
                    customer = (await self._v1.customers.retrieve_async(subject)).to_dict()
                    chosen = (customer.get("invoice_settings") or {}).get("default_payment_method")
                    return {"default_payment_method": method} if _id(chosen) == method else None
                case Detach(payment_method=method):
                    found = (await self._v1.payment_methods.retrieve_async(method)).to_dict()
                    return {"detached": method} if found.get("customer") is None else None
                case NewSetupIntent():
                    return None  # which nobody has seen, and nobody will
                case ChangePlan() | Cancel() | Resume() | ApplyCoupon():
                    return await self._found_change(attempt)

    async def do(self, attempt: Attempt) -> dict[str, Any]:  # noqa: PLR0911 - a case, an answer
        """What became of the command, as it is kept. Raises what `common.outside.call` raises."""
        subject = attempt.subject
        with stripe_answers():
            match attempt.wanted:
                case NewSubscription() as wanted:
                    return await self._subscribe(attempt, wanted)
                case ChangePlan() as wanted:
                    return await self._change_plan(attempt, wanted)
                case Cancel(when="now"):
                    return await self._cancel_now(attempt)
                case Cancel():
                    await self._freed(attempt.subject)
                    with partly_done():
                        return await self._update(attempt, {"cancel_at_period_end": True})
                case Resume():
                    return await self._resume(attempt)
                case ApplyCoupon(coupon=coupon):
                    return await self._update(attempt, {"discounts": [{"coupon": coupon}]})
                case NewSetupIntent():
                    params: Any = {"customer": subject, "usage": "off_session", **_mark(attempt)}
                    with with_key():
                        made = await self._v1.setup_intents.create_async(params, _once(attempt))
                    return {"id": made.id, "client_secret": made.client_secret}
                case SetDefault(payment_method=method):
                    settings: Any = {"invoice_settings": {"default_payment_method": method}}
                    with with_key():
                        await self._v1.customers.update_async(subject, settings, _once(attempt))
                    return {"default_payment_method": method}
                case Detach(payment_method=method):
                    return await self._detach(attempt, method)
                case _:
                    raise Refused(f"does nothing like {attempt.wanted.kind}", 400)

    async def preview(self, subscription: str, plan: str, *, prorate: bool) -> dict[str, Any]:
        """What the next invoice would be with this plan: minor units."""
        with stripe_answers():
            found = (await self._v1.subscriptions.retrieve_async(subscription)).to_dict()
            item = _item(found)
            params: Any = {
                "customer": _id(found["customer"]) or "",
                "subscription": subscription,
                "subscription_details": {
                    "items": [{"id": item["id"], "price": plan, **_quantity(item)}],
                    "proration_behavior": _prorate(prorate),
                },
            }
            invoice = (await self._v1.invoices.create_preview_async(params)).to_dict()
        currency = str(invoice["currency"]).upper()
        return {
            "currency": currency,
            "amount_due": from_stripe(invoice["amount_due"], currency),
            "subtotal": from_stripe(invoice["subtotal"], currency),
            "total": from_stripe(invoice["total"], currency),
            "lines": [
                {
                    "description": line.get("description"),
                    "amount": from_stripe(line["amount"], currency),
                }
                for line in invoice["lines"]["data"]
            ],
        }

    async def payment_methods(self, customer: str) -> list[dict[str, Any]]:
        with stripe_answers():
            about = (await self._v1.customers.retrieve_async(customer)).to_dict()
            chosen = (about.get("invoice_settings") or {}).get("default_payment_method")
            params: Any = {"customer": customer, "type": "card", "limit": _PAGE}
            listed = await self._v1.payment_methods.list_async(params)
            found = [each.to_dict() async for each in listed.auto_paging_iter()]
        return [
            {
                "id": each["id"],
                "type": each["type"],
                "brand": (each.get("card") or {}).get("brand"),
                "last4": (each.get("card") or {}).get("last4"),
                "exp_month": (each.get("card") or {}).get("exp_month"),
                "exp_year": (each.get("card") or {}).get("exp_year"),
                "default": each["id"] == _id(chosen),
            }
            for each in found
        ]

    async def invoices(self, customer: str) -> list[dict[str, Any]]:
        """The newest hundred."""
        with stripe_answers():
            params: Any = {"customer": customer, "limit": _PAGE}
            page = (await self._v1.invoices.list_async(params)).to_dict()
        return [
            {
                "id": each["id"],
                "number": each.get("number"),
                "status": each.get("status"),
                "currency": (currency := str(each["currency"]).upper()),
                "amount_due": from_stripe(each["amount_due"], currency),
                "amount_paid": from_stripe(each["amount_paid"], currency),
                "created": each["created"],
                "page_url": each.get("hosted_invoice_url"),
                "pdf_url": each.get("invoice_pdf"),
            }
            for each in page["data"]
        ]

    async def portal(self, customer: str, return_url: str) -> str:
        """The address of a page where the customer sees to all of this; it is for minutes."""
        with stripe_answers():
            params: Any = {"customer": customer, "return_url": return_url}
            session = await self._v1.billing_portal.sessions.create_async(params)
        return str(session.url)

    async def _found_subscription(self, attempt: Attempt) -> dict[str, Any] | None:
        async for each in self._subscriptions(attempt.subject):
            if (each.get("metadata") or {}).get(COMMAND_IN_METADATA) == attempt.id:
                return _shown(each)
        return None

    async def _found_change(self, attempt: Attempt) -> dict[str, Any] | None:
        params: Any = {"expand": ["discounts"]}
        now = await self._v1.subscriptions.retrieve_async(attempt.subject, params)
        found = now.to_dict()
        match attempt.wanted:
            case ChangePlan(plan_id=plan, when="period_end") if _plan(_item(found)) != plan:
                return await self._found_plan_change(found, plan)
            case ChangePlan(plan_id=plan):
                is_done = _plan(_item(found)) == plan
            case Cancel(when="now"):
                is_done = found["status"] == "canceled"
            case Cancel():
                is_done = _ends(found) or found["status"] == "canceled"
            case Resume():
                is_done = not _ends(found) and found["status"] != "canceled"
            case ApplyCoupon(coupon=coupon):
                is_done = coupon in _coupons(found)
            case _:
                is_done = False
        return _shown(found) if is_done else None

    async def _found_plan_change(
        self, subscription: Mapping[str, Any], plan: str
    ) -> dict[str, Any] | None:
        name = _id(subscription.get("schedule"))
        if name is None:
            return None
        schedule = (await self._v1.subscription_schedules.retrieve_async(name)).to_dict()
        last = schedule["phases"][-1]["items"][0]
        if _id(last["price"]) != plan:
            return None
        return _shown(subscription) | {"next_plan": plan, "schedule": name}

    async def _subscribe(self, attempt: Attempt, wanted: NewSubscription) -> dict[str, Any]:
        if (found := await self._found_subscription(attempt)) is not None:
            return found
        params: SubscriptionCreateParams = {
            "customer": attempt.subject,
            "items": [{"price": wanted.plan_id}],
            "metadata": {COMMAND_IN_METADATA: attempt.id},
        }
        if wanted.trial_days:
            params["trial_period_days"] = wanted.trial_days
        if wanted.coupon is not None:
            params["discounts"] = [{"coupon": wanted.coupon}]
        if wanted.payment_method is not None:
            params["default_payment_method"] = wanted.payment_method
        with with_key():
            made = await self._v1.subscriptions.create_async(params, _once(attempt))
        return _shown(made.to_dict())

    async def _subscriptions(self, customer: str) -> AsyncIterator[dict[str, Any]]:
        params: Any = {"customer": customer, "status": "all", "limit": _PAGE}
        listed = await self._v1.subscriptions.list_async(params)
        async for each in listed.auto_paging_iter():
            yield each.to_dict()

    async def _change_plan(self, attempt: Attempt, wanted: ChangePlan) -> dict[str, Any]:
        found = (await self._v1.subscriptions.retrieve_async(attempt.subject)).to_dict()
        item = _item(found)
        if wanted.when == "period_end" and _plan(item) != wanted.plan_id:
            return await self._change_later(attempt, wanted, found)
        if _id(found.get("schedule")) is not None and _plan(item) != wanted.plan_id:
            await self._check_price(wanted.plan_id)
        found = await self._freed(attempt.subject, found)
        if _plan(item) == wanted.plan_id:
            return _shown(found)  # done before, or nothing to do: not prorated twice
        with partly_done():
            return await self._update(
                attempt,
                {
                    "items": [{"id": item["id"], "price": wanted.plan_id, **_quantity(item)}],
                    "proration_behavior": _prorate(wanted.prorate),
                },
            )

    async def _check_price(self, plan: str) -> None:
        """What Stripe would refuse is refused before the change that was planned is given up.

        https://docs.stripe.com/api/prices/object#price_object-active
        """
        price = await self._v1.prices.retrieve_async(plan)
        if not price.active:
            raise Refused(f"says that the price {plan} is not active", 400)

    async def _freed(self, subject: str, found: dict[str, Any] | None = None) -> dict[str, Any]:
        """The subscription without a schedule: a change that was planned for later does not come,
        and Stripe lets nobody cancel beside a schedule."""
        if found is None:
            found = (await self._v1.subscriptions.retrieve_async(subject)).to_dict()
        planned = _id(found.get("schedule"))
        if planned is None:
            return found
        await self._v1.subscription_schedules.release_async(planned)
        return (await self._v1.subscriptions.retrieve_async(subject)).to_dict()

    async def _change_later(
        self, attempt: Attempt, wanted: ChangePlan, found: Mapping[str, Any]
    ) -> dict[str, Any]:
        """By a schedule of two phases, after which the subscription goes on by itself."""
        item = _item(found)
        name = _id(found.get("schedule"))
        if name is None:
            params: Any = {"from_subscription": attempt.subject}
            with with_key():
                made = await self._v1.subscription_schedules.create_async(params, _once(attempt))
            name = made.id
        with partly_done():
            schedule = (await self._v1.subscription_schedules.retrieve_async(name)).to_dict()
        began = (schedule.get("current_phase") or {}).get("start_date")
        phases_now = [each for each in schedule["phases"] if each["start_date"] == began]
        now = (phases_now or schedule["phases"])[0]
        # An update replaces a phase whole: what is left out of it would be taken away.
        kept = {"discounts": kinds} if (kinds := _discounts(now)) else {}
        if now.get("trial_end"):
            kept["trial_end"] = now["trial_end"]
        phases = [
            {
                "items": [{"price": _plan(item), **_quantity(item)}],
                "start_date": now["start_date"],
                "end_date": now["end_date"],
                **kept,
            },
            {
                "items": [{"price": wanted.plan_id, **_quantity(item)}],
                **({"discounts": kinds} if kinds else {}),
            },
        ]
        changed: Any = {"phases": phases, "end_behavior": "release", "proration_behavior": "none"}
        with partly_done():
            await self._v1.subscription_schedules.update_async(name, changed)
        return _shown(found) | {"next_plan": wanted.plan_id, "schedule": name}

    async def _cancel_now(self, attempt: Attempt) -> dict[str, Any]:
        found = (await self._v1.subscriptions.retrieve_async(attempt.subject)).to_dict()
        if found["status"] != "canceled":
            with with_key():
                done = await self._v1.subscriptions.cancel_async(
                    attempt.subject, {}, _once(attempt)
                )
            found = done.to_dict()
        return _shown(found)

    async def _resume(self, attempt: Attempt) -> dict[str, Any]:
        found = (await self._v1.subscriptions.retrieve_async(attempt.subject)).to_dict()
        if found["status"] == "canceled":
            raise Refused("says that it is over: subscribe anew", 409)
        if not _ends(found):
            return _shown(found)
        await self._freed(attempt.subject, found)
        # In flexible billing the portal sets `cancel_at` alone.
        # https://docs.stripe.com/billing/subscriptions/billing-mode
        for field, value in (("cancel_at_period_end", False), ("cancel_at", "")):
            if found.get(field):
                with partly_done():
                    found = await self._changed(attempt, {field: value}, part=f".{field}")
        if _ends(found):
            raise Refused("says that it ends all the same: see its dashboard", 409)
        return _shown(found)

    async def _update(self, attempt: Attempt, changes: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await self._changed(attempt, changes))

    async def _changed(
        self, attempt: Attempt, changes: Mapping[str, Any], *, part: str = ""
    ) -> dict[str, Any]:
        with with_key():
            done = await self._v1.subscriptions.update_async(
                attempt.subject,
                dict(changes),  # type: ignore[arg-type]
                _once(attempt, part),
            )
        return done.to_dict()

    async def _detach(self, attempt: Attempt, method: str) -> dict[str, Any]:
        found = (await self._v1.payment_methods.retrieve_async(method)).to_dict()
        if _id(found.get("customer")) not in {None, attempt.subject}:
            raise Refused("knows this payment method as another customer's", 404)
        if found.get("customer") is not None:
            with with_key():
                await self._v1.payment_methods.detach_async(method, {}, _once(attempt))
        return {"detached": method}


@contextmanager
def partly_done() -> Iterator[None]:
    """Around a call after one that changed something: that Stripe is asked too often does not mean
    any more that nothing was done."""
    try:
        with stripe_answers():
            yield
    except RateLimited as error:
        raise NoAnswer(f"{error}, after a part of it was done") from error


def _once(attempt: Attempt, part: str = "") -> Any:
    return {"idempotency_key": f"{attempt.id}.{attempt.number}{part}"}


def _mark(attempt: Attempt) -> dict[str, Any]:
    return {"metadata": {COMMAND_IN_METADATA: attempt.id}}


def _prorate(wanted: bool) -> Literal["create_prorations", "none"]:
    return "create_prorations" if wanted else "none"


def _quantity(item: Mapping[str, Any]) -> dict[str, Any]:
    """A price takes the quantity 1 unless one is said with it; what is metered has none.
    https://docs.stripe.com/billing/subscriptions/change-price"""
    return {"quantity": item["quantity"]} if item.get("quantity") is not None else {}


def _item(subscription: Mapping[str, Any]) -> dict[str, Any]:
    items: list[dict[str, Any]] = subscription["items"]["data"]
    if len(items) != 1:
        raise Refused("has several prices in this subscription: use its dashboard", 409)
    return items[0]


def _plan(item: Mapping[str, Any]) -> str:
    return str((item.get("price") or item["plan"])["id"])


def _discounts(phase: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As they are given back to Stripe: by their first name that there is."""
    names = ("discount", "coupon", "promotion_code")
    return [
        {name: _id(each[name])}
        for each in phase.get("discounts") or ()
        for name in [next((name for name in names if each.get(name)), None)]
        if name is not None
    ]


def _ends(subscription: Mapping[str, Any]) -> bool:
    """Whether its end is decided: `cancel_at_period_end`, or in flexible billing `cancel_at`
    alone."""
    return bool(subscription.get("cancel_at_period_end") or subscription.get("cancel_at"))


def _coupons(subscription: Mapping[str, Any]) -> set[str | None]:
    """Of its discounts: since 2025-09-30 under `source`, before that by themselves."""
    found: set[str | None] = set()
    for each in subscription.get("discounts") or ():
        discount = each if isinstance(each, dict) else {}
        source = discount.get("source") or {}
        found |= {_id(discount.get("coupon")), _id(source.get("coupon")), _id(each)}
    return found


def _id(value: Any) -> str | None:
    """Of what is an id, or was expanded."""
    found = value["id"] if isinstance(value, dict) else value
    return str(found) if found is not None else None


def _shown(subscription: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever it is made of: what was done must not be told as refused."""
    plans = [_plan(each) for each in subscription["items"]["data"]]
    return {
        "id": subscription["id"],
        "status": subscription["status"],
        "plan": plans[0] if plans else None,
        "plans": plans,
        "cancel_at_period_end": bool(subscription.get("cancel_at_period_end")),
        "cancel_at": subscription.get("cancel_at"),
    }
