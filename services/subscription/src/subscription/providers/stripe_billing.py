"""Stripe Billing, through the official SDK: execution of our commands, and reads.

https://docs.stripe.com/api. Each command can be repeated: it first checks whether it was done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import stripe
from stripe.params import SubscriptionCreateParams

from common.clients.stripe import IdempotencyKeyConsumed, from_stripe, stripe_answers, with_key
from common.errors import ProviderRejected, ProviderTimeout, RateLimited
from subscription.models import COMMAND_IN_METADATA
from subscription.schemas.billing import (
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

_PAGE = 100
_WITH_INVOICE: Any = {"expand": ["latest_invoice"]}


class StripeBilling:
    def __init__(self, client: stripe.StripeClient, payment_methods: Sequence[str]) -> None:
        """Set up the client. `payment_methods` are the Stripe types that customers may pay with."""
        self._v1 = client.v1
        self._payment_methods = payment_methods

    async def find(self, attempt: Attempt) -> dict[str, Any] | None:
        """Return the command's result if Stripe shows it to be done, else None. Raise the errors of
        `common.clients.json_api.request`."""
        subject = attempt.subject
        with stripe_answers():
            match attempt.request:
                case NewSubscription():
                    return await self._found_subscription(attempt)
                case SetDefault(payment_method=method):
                    return await self._found_default(subject, method)
                case Detach(payment_method=method):
                    found = (await self._v1.payment_methods.retrieve_async(method)).to_dict()
                    return {"detached": method} if found.get("customer") is None else None
                case NewSetupIntent():
                    return None  # no caller received it, and none will
                case ChangePlan() | Cancel() | Resume() | ApplyCoupon():
                    return await self._found_change(attempt)

    async def do(self, attempt: Attempt) -> dict[str, Any]:  # noqa: PLR0911 - one return per case
        """Execute the command and return its result. Raise the errors of `json_api.request`."""
        subject = attempt.subject
        with stripe_answers():
            match attempt.request:
                case NewSubscription() as request:
                    return await self._subscribe(attempt, request)
                case ChangePlan() as request:
                    return await self._change_plan(attempt, request)
                case Cancel(when="now"):
                    return await self._cancel_now(attempt)
                case Cancel():
                    _, released = await self._freed(attempt.subject)
                    with partly_done(when=released):
                        return await self._update(attempt, {"cancel_at_period_end": True})
                case Resume():
                    return await self._resume(attempt)
                case ApplyCoupon(coupon=coupon):
                    return await self._apply(attempt, coupon)
                case NewSetupIntent():
                    params: Any = {
                        "customer": subject,
                        "usage": "off_session",
                        "payment_method_types": list(self._payment_methods),
                        **_mark(attempt),
                    }
                    with with_key():
                        made = await self._v1.setup_intents.create_async(params, _once(attempt))
                    return {"id": made.id, "client_secret": made.client_secret}
                case SetDefault(payment_method=method):
                    return await self._set_default(attempt, method)
                case Detach(payment_method=method):
                    return await self._detach(attempt, method)
                case _:
                    raise ProviderRejected(f"does not support {attempt.request.kind}", 400)

    async def preview(self, subscription: str, plan: str, *, prorate: bool) -> dict[str, Any]:
        """Return the next invoice with this plan; amounts are in minor units."""
        with stripe_answers():
            now = await self._v1.subscriptions.retrieve_async(subscription, _WITH_INVOICE)
            found = now.to_dict()
            item = _item(found)
            price = await self._price(plan)
            if _plan(item) != plan and (prorate or not _costs_no_more(item["price"], price)):
                _check_is_paid(found)
            params: Any = {
                "customer": _id(found["customer"]) or "",
                "subscription": subscription,
                "subscription_details": {
                    "items": [{"id": item["id"], "price": plan, **_quantity(item)}],
                    "proration_behavior": _prorate(prorate),
                    **_anchored(found, price),
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
        """Return the newest hundred invoices; amounts are in minor units."""
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
        """Return the URL of a page where the customer manages all of this; valid for minutes."""
        with stripe_answers():
            params: Any = {"customer": customer, "return_url": return_url}
            session = await self._v1.billing_portal.sessions.create_async(params)
        return str(session.url)

    async def _found_subscription(self, attempt: Attempt) -> dict[str, Any] | None:
        async for each in self._subscriptions(attempt.subject):
            if (each.get("metadata") or {}).get(COMMAND_IN_METADATA) == attempt.id:
                return _shown(each)
        return None

    async def _found_default(self, customer: str, method: str) -> dict[str, Any] | None:
        about = (await self._v1.customers.retrieve_async(customer)).to_dict()
        chosen = (about.get("invoice_settings") or {}).get("default_payment_method")
        if _id(chosen) != method:
            return None
        async for each in self._subscriptions(customer):
            if _pays_otherwise(each, method):
                return None
        return {"default_payment_method": method}

    async def _set_default(self, attempt: Attempt, method: str) -> dict[str, Any]:
        """Set the default payment method of the customer and its subscriptions.

        A subscription started with a payment method, as Checkout starts it, has that one as its own
        default, which takes precedence over the customer's.

        https://docs.stripe.com/api/subscriptions/object#subscription_object-default_payment_method
        """
        settings: Any = {"invoice_settings": {"default_payment_method": method}}
        await self._check_pays_at_once(method)
        with with_key():
            await self._v1.customers.update_async(attempt.subject, settings, _once(attempt))
        with partly_done():
            async for each in self._subscriptions(attempt.subject):
                if not _pays_otherwise(each, method):
                    continue
                if (schedule := _id(each.get("schedule"))) is not None:
                    # Otherwise its next phase would restore the old one.
                    default: Any = {"default_settings": {"default_payment_method": method}}
                    await self._v1.subscription_schedules.update_async(schedule, default)
                with with_key():
                    await self._v1.subscriptions.update_async(
                        each["id"],
                        {"default_payment_method": method},
                        _once(attempt, f".{each['id']}"),
                    )
        return {"default_payment_method": method}

    async def _apply(self, attempt: Attempt, coupon: str) -> dict[str, Any]:
        """Apply a coupon. Raise `ProviderRejected` if a change of plan is planned: the phase that
        begins then has the discounts it was planned with."""
        params: Any = {"expand": ["discounts"]}
        now = await self._v1.subscriptions.retrieve_async(attempt.subject, params)
        found = now.to_dict()
        if coupon in _coupons(found):
            return _shown(found)
        if _id(found.get("schedule")) is not None:
            raise ProviderRejected(
                "has a scheduled change of plan, which would drop the coupon: undo it (`POST "
                ".../plan` with the present plan), apply the coupon, and plan the change again",
                409,
            )
        return await self._update(attempt, {"discounts": [{"coupon": coupon}]})

    async def _found_change(self, attempt: Attempt) -> dict[str, Any] | None:
        params: Any = {"expand": ["discounts"]}
        now = await self._v1.subscriptions.retrieve_async(attempt.subject, params)
        found = now.to_dict()
        match attempt.request:
            case ChangePlan(plan_id=plan, when="period_end") if _plan(_item(found)) != plan:
                return await self._found_plan_change(found, plan)
            case ChangePlan(plan_id=plan):
                # A request for the present plan undoes a planned change.
                is_done = _plan(_item(found)) == plan and _id(found.get("schedule")) is None
            case Cancel(when="now"):
                is_done = found["status"] == "canceled"
            case Cancel():
                is_done = _ends_with_period(found) or found["status"] == "canceled"
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

    async def _subscribe(self, attempt: Attempt, request: NewSubscription) -> dict[str, Any]:
        if (found := await self._found_subscription(attempt)) is not None:
            return found
        params: SubscriptionCreateParams = {
            "customer": attempt.subject,
            "items": [{"price": request.plan_id}],
            "metadata": {COMMAND_IN_METADATA: attempt.id},
            "payment_settings": {"payment_method_types": list(self._payment_methods)},
        }
        if request.trial_days:
            params["trial_period_days"] = request.trial_days
            # Otherwise Stripe creates an invoice that nothing can pay.
            # https://docs.stripe.com/billing/subscriptions/trials
            params["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
        if request.coupon is not None:
            params["discounts"] = [{"coupon": request.coupon}]
        if request.payment_method is not None:
            await self._check_pays_at_once(request.payment_method)
            params["default_payment_method"] = request.payment_method
        with with_key():
            made = await self._v1.subscriptions.create_async(params, _once(attempt))
        return _shown(made.to_dict())

    async def _subscriptions(self, customer: str) -> AsyncIterator[dict[str, Any]]:
        params: Any = {"customer": customer, "status": "all", "limit": _PAGE}
        listed = await self._v1.subscriptions.list_async(params)
        async for each in listed.auto_paging_iter():
            yield each.to_dict()

    async def _change_plan(self, attempt: Attempt, request: ChangePlan) -> dict[str, Any]:
        now = await self._v1.subscriptions.retrieve_async(attempt.subject, _WITH_INVOICE)
        found = now.to_dict()
        item = _item(found)
        if request.when == "period_end" and _plan(item) != request.plan_id:
            return await self._change_later(attempt, request, found)
        price = await self._price(request.plan_id)
        if _plan(item) != request.plan_id:
            _check_is_sold(price, request.plan_id)
        if _plan(item) != request.plan_id and (
            request.prorate or not _costs_no_more(item["price"], price)
        ):
            _check_is_paid(found)
        found, released = await self._freed(attempt.subject, found)
        if _plan(item) == request.plan_id:
            return _shown(found)  # already done, or nothing to do: not prorated twice
        with _planned_change_is_gone(when=released), partly_done(when=released):
            return await self._update(
                attempt,
                {
                    "items": [{"id": item["id"], "price": request.plan_id, **_quantity(item)}],
                    "proration_behavior": _prorate(request.prorate),
                    # By default Stripe applies the change whether or not its invoice is paid.
                    # https://docs.stripe.com/billing/subscriptions/pending-updates
                    "payment_behavior": "error_if_incomplete",
                    **_anchored(found, price),
                },
            )

    async def _price(self, plan: str) -> dict[str, Any]:
        return (await self._v1.prices.retrieve_async(plan)).to_dict()

    async def _freed(
        self, subject: str, found: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Release the subscription's schedule; return the subscription, and whether it had a
        schedule. This drops a change planned for later; Stripe allows no cancellation beside a
        schedule."""
        if found is None:
            found = (await self._v1.subscriptions.retrieve_async(subject)).to_dict()
        planned = _id(found.get("schedule"))
        if planned is None:
            return found, False
        await self._v1.subscription_schedules.release_async(planned)
        with partly_done():
            return (await self._v1.subscriptions.retrieve_async(subject)).to_dict(), True

    async def _change_later(
        self, attempt: Attempt, request: ChangePlan, found: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change the plan by a schedule of two phases, after which the subscription continues."""
        # A released schedule renews its subscription, even if that was due to end before.
        # https://docs.stripe.com/api/subscription_schedules/create#create_subscription_schedule-end_behavior
        if _ends(found):
            raise ProviderRejected(
                "reports that the subscription ends: resume it first, or change the plan now", 409
            )
        item = _item(found)
        price = await self._price(request.plan_id)
        _check_is_sold(price, request.plan_id)
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
        # An update replaces the complete phase: what is omitted from it would be removed.
        kept = _kept(now, "default_tax_rates")
        of_item = _quantity(item) | _kept((now.get("items") or [{}])[0], "tax_rates")
        trial = {"trial_end": now["trial_end"]} if now.get("trial_end") else {}
        phases = [
            {
                "items": [{"price": _plan(item), **of_item}],
                "start_date": now["start_date"],
                "end_date": now["end_date"],
                **trial,
                **kept,
            },
            {
                "items": [{"price": request.plan_id, **of_item}],
                **({"billing_cycle_anchor": "phase_start"} if _anchored(found, price) else {}),
                **kept,
            },
        ]
        changed: Any = {"phases": phases, "end_behavior": "release", "proration_behavior": "none"}
        if (method := _id(found.get("default_payment_method"))) is not None:
            # Without one the customer's default pays; with Checkout only the subscription has one.
            # https://docs.stripe.com/api/subscription_schedules/object#subscription_schedule_object-default_settings-default_payment_method
            changed["default_settings"] = {"default_payment_method": method}
        with partly_done():
            await self._v1.subscription_schedules.update_async(name, changed)
        return _shown(found) | {"next_plan": request.plan_id, "schedule": name}

    async def _cancel_now(self, attempt: Attempt) -> dict[str, Any]:
        found = (await self._v1.subscriptions.retrieve_async(attempt.subject)).to_dict()
        if found["status"] != "canceled":
            with with_key():
                # Otherwise usage and prorations not yet invoiced would never be charged.
                # https://docs.stripe.com/api/subscriptions/cancel#cancel_subscription-invoice_now
                done = await self._v1.subscriptions.cancel_async(
                    attempt.subject, {"invoice_now": True}, _once(attempt)
                )
            found = done.to_dict()
        return _shown(found)

    async def _resume(self, attempt: Attempt) -> dict[str, Any]:
        found = (await self._v1.subscriptions.retrieve_async(attempt.subject)).to_dict()
        if found["status"] == "canceled":
            raise ProviderRejected("reports that the subscription has ended: create a new one", 409)
        if not _ends(found):
            return _shown(found)
        _, is_begun = await self._freed(attempt.subject, found)
        # In flexible billing the portal sets only `cancel_at`.
        # https://docs.stripe.com/billing/subscriptions/billing-mode
        for field, value in (("cancel_at_period_end", False), ("cancel_at", "")):
            if found.get(field):
                with partly_done(when=is_begun):
                    found = await self._changed(attempt, {field: value}, part=f".{field}")
                is_begun = True
        if _ends(found):
            raise ProviderRejected(
                "reports that the subscription still ends: check its dashboard", 409
            )
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

    async def _check_pays_at_once(self, method: str) -> None:
        """Raise `ProviderRejected` for a type that is not in the account's `payment_methods`."""
        found = (await self._v1.payment_methods.retrieve_async(method)).to_dict()
        if found["type"] not in self._payment_methods:
            raise ProviderRejected(
                f"has {method} as {found['type']}: the account accepts "
                f"{', '.join(self._payment_methods)} (option `payment_methods`)",
                400,
            )

    async def _detach(self, attempt: Attempt, method: str) -> dict[str, Any]:
        found = (await self._v1.payment_methods.retrieve_async(method)).to_dict()
        if _id(found.get("customer")) not in {None, attempt.subject}:
            raise ProviderRejected(
                "reports that this payment method belongs to another customer", 404
            )
        if found.get("customer") is not None:
            with with_key():
                await self._v1.payment_methods.detach_async(method, {}, _once(attempt))
        return {"detached": method}


@contextmanager
def partly_done(*, when: bool = True) -> Iterator[None]:
    """Guard a call that follows one that changed something: if Stripe limits the rate of this call,
    or has not executed it, that no longer means that nothing was done."""
    if not when:
        yield
        return
    try:
        with stripe_answers():
            yield
    except IdempotencyKeyConsumed as error:
        error.partly = True
        raise
    except RateLimited as error:
        raise ProviderTimeout(f"{error}, after executing it in part") from error


@contextmanager
def _planned_change_is_gone(*, when: bool) -> Iterator[None]:
    """Guard a change that Stripe may reject after the planned one was dropped; report both."""
    try:
        yield
    except ProviderRejected as error:
        if not when:
            raise
        gone = "the change that was planned for the end of the period is taken back"
        raise ProviderRejected(f"{error}; {gone}", error.status) from error


def _once(attempt: Attempt, part: str = "") -> Any:
    return {"idempotency_key": f"{attempt.id}.{attempt.number}{part}"}


def _mark(attempt: Attempt) -> dict[str, Any]:
    return {"metadata": {COMMAND_IN_METADATA: attempt.id}}


def _prorate(request: bool) -> Literal["always_invoice", "none"]:
    """Return the proration behaviour: invoiced now, so that a more expensive plan is paid before it
    entitles to anything."""
    return "always_invoice" if request else "none"


def _quantity(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the quantity to send with a price, for which Stripe otherwise uses 1; a metered price
    has none.
    https://docs.stripe.com/billing/subscriptions/change-price"""
    return {"quantity": item["quantity"]} if item.get("quantity") is not None else {}


def _item(subscription: Mapping[str, Any]) -> dict[str, Any]:
    items: list[dict[str, Any]] = subscription["items"]["data"]
    if len(items) != 1:
        raise ProviderRejected("has several prices in this subscription: use its dashboard", 409)
    return items[0]


def _plan(item: Mapping[str, Any]) -> str:
    return str((item.get("price") or item["plan"])["id"])


def _anchored(subscription: Mapping[str, Any], price: Mapping[str, Any]) -> dict[str, Any]:
    """Return the billing cycle's parameters for a change to the price. If the interval differs, or
    the price before was free, a new period begins and is invoiced; in flexible billing, in which
    subscriptions are created, only if requested explicitly. A trial continues, and a period begins
    at its end.

    https://docs.stripe.com/billing/subscriptions/billing-mode/compare
    """
    now = _item(subscription)["price"]
    begins_to_cost = now.get("unit_amount") == 0 and price.get("unit_amount") != 0
    same = _interval(now) == _interval(price) and not begins_to_cost
    if same or subscription["status"] == "trialing":
        return {}
    return {"billing_cycle_anchor": {"type": "now"}}


def _check_is_sold(price: Mapping[str, Any], plan: str) -> None:
    """Raise `ProviderRejected` if the price is not active, before anything planned is dropped.
    https://docs.stripe.com/api/prices/object#price_object-active"""
    if not price["active"]:
        raise ProviderRejected(f"reports that the price {plan} is not active", 400)


def _costs_no_more(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    """Return whether a unit of the other price costs no more, in the same interval and currency."""
    before, after = now.get("unit_amount"), then.get("unit_amount")
    comparable = _interval(now) == _interval(then) and now["currency"] == then["currency"]
    return comparable and before is not None and after is not None and after <= before


def _check_is_paid(subscription: Mapping[str, Any]) -> None:
    """Raise `ProviderRejected` if the latest invoice is not paid. A proration credits what was
    invoiced, paid or not, and an invoice paid by credit makes the subscription active. A more
    expensive plan is not given on credit either.

    https://docs.stripe.com/billing/subscriptions/prorations
    """
    invoice = subscription.get("latest_invoice")
    # An invoice that was voided, or created while collection was paused, is not paid either.
    # https://docs.stripe.com/billing/subscriptions/pause-payment
    is_unpaid = isinstance(invoice, dict) and invoice.get("status") != "paid"
    if is_unpaid or subscription["status"] in {"past_due", "unpaid"}:
        raise ProviderRejected(
            "has an invoice of it that is not paid: have it paid first, or change the plan at the "
            "end of the period, or to one that costs no more with `prorate: false`",
            409,
        )


def _interval(price: Mapping[str, Any]) -> tuple[Any, Any]:
    recurring = price.get("recurring") or {}
    return recurring.get("interval"), recurring.get("interval_count")


def _kept(of: Mapping[str, Any], taxes: str) -> dict[str, Any]:
    """Return the discounts and tax rates of a schedule's phase, or of an item in it, to carry over.

    https://docs.stripe.com/api/subscription_schedules/object#subscription_schedule_object-phases
    """
    rates = [_id(each) for each in of.get(taxes) or ()]
    found = {"discounts": _discounts(of), taxes: rates}
    return {name: each for name, each in found.items() if each}


def _discounts(phase: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the discounts as Stripe accepts them: each by the first name that it has."""
    names = ("discount", "coupon", "promotion_code")
    return [
        {name: _id(each[name])}
        for each in phase.get("discounts") or ()
        for name in [next((name for name in names if each.get(name)), None)]
        if name is not None
    ]


def _pays_otherwise(subscription: Mapping[str, Any], method: str) -> bool:
    # Stripe does not allow this change on an incomplete subscription.
    # https://docs.stripe.com/api/subscriptions/object#subscription_object-status
    if subscription["status"] in {"canceled", "incomplete", "incomplete_expired"}:
        return False
    own = _id(subscription.get("default_payment_method"))
    return own != method and bool(own or subscription.get("default_source"))


def _ends_with_period(subscription: Mapping[str, Any]) -> bool:
    """Return whether it ends with its period, not at a later date fixed at its start."""
    at, items = subscription.get("cancel_at"), subscription["items"]["data"]
    ends = [each["current_period_end"] for each in items if each.get("current_period_end")]
    return bool(subscription.get("cancel_at_period_end") or (at and ends and at <= max(ends)))


def _ends(subscription: Mapping[str, Any]) -> bool:
    """Return whether its end is decided: by `cancel_at_period_end`, or in flexible billing by
    `cancel_at` alone."""
    return bool(subscription.get("cancel_at_period_end") or subscription.get("cancel_at"))


def _coupons(subscription: Mapping[str, Any]) -> set[str | None]:
    """Return the coupons of its discounts: since 2025-09-30 in `source`, before that directly."""
    found: set[str | None] = set()
    for each in subscription.get("discounts") or ():
        discount = each if isinstance(each, dict) else {}
        source = discount.get("source") or {}
        found |= {_id(discount.get("coupon")), _id(source.get("coupon")), _id(each)}
    return found


def _id(value: Any) -> str | None:
    """Return the id of a value that is an id or an expanded object."""
    found = value["id"] if isinstance(value, dict) else value
    return str(found) if found is not None else None


def _shown(subscription: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result for any number of items: what was done must not be reported as rejected."""
    plans = [_plan(each) for each in subscription["items"]["data"]]
    return {
        "id": subscription["id"],
        "status": subscription["status"],
        "plan": plans[0] if plans else None,
        "plans": plans,
        "cancel_at_period_end": bool(subscription.get("cancel_at_period_end")),
        "cancel_at": subscription.get("cancel_at"),
    }
