"""Features of Stripe Billing that localstripe lacks: prices, discounts, schedules, the portal,
idempotency keys, webhooks of changes. And faults on request.

`PUT /_config/behaviour` with `{"mode": "fail"}` returns 500 before the work, `fail_after` 500 after
it, `hang` never responds and does not do the work, `hang_after` never responds after the work,
`too_often` returns 429, `hold` does the work when the behaviour changes; `rate` is the share of
changing calls affected, `delay` how many seconds they take, `well` ends it. `GET` of the same
returns it with `calls`, the number of calls affected since it was set.

`PUT /_config/subscriptions/{id}` makes changes that Stripe or its portal makes on its own:
`{"status": "unpaid"}`, `{"cancel_at": 1798392000}`; with `"events": ["paused"]` only these are
sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from aiohttp import web
from localstripe.errors import UserError
from localstripe.resources import (
    Coupon,
    Customer,
    Event,
    Invoice,
    InvoiceItem,
    PaymentMethod,
    Plan,
    StripeObject,
    Subscription,
    SubscriptionItem,
    TaxRate,
)
from localstripe.server import get_post_data, json_response
from localstripe.webhooks import schedule_webhook

from sandbox.stripe.objects import price as price_of

_BEFORE = {
    "fail": (500, b'{"error": {"type": "api_error", "message": "a fault on request"}}'),
    "too_often": (429, b'{"error": {"type": "rate_limit_error", "message": "slowly"}}'),
}
_MODES = {"well", "fail_after", "hang", "hang_after", "hold", *_BEFORE}


class SubscriptionSchedule(StripeObject):  # type: ignore[misc]
    """The object of https://docs.stripe.com/api/subscription_schedules/object, as far as used here.
    Its phases never advance."""

    object = "subscription_schedule"
    _id_prefix = "sub_sched_"

    def __init__(self, from_subscription: str) -> None:
        subscription = Subscription._api_retrieve(from_subscription)
        super().__init__()
        self.subscription = from_subscription
        self.customer = subscription.customer
        self.status = "active"
        self.end_behavior = "release"
        # Whether Stripe copies the subscription's payment method is undocumented.
        self.default_settings: dict[str, Any] = {
            "application_fee_percent": None,
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": None,
            "description": None,
            "invoice_settings": {
                "account_tax_ids": None,
                "days_until_due": None,
                "issuer": {"type": "self"},
            },
            "on_behalf_of": None,
            "transfer_data": None,
        }
        (item, *_) = subscription.items._list
        self.phases: Any = [
            {
                "items": [
                    {"price": subscription.plan.id, "quantity": subscription.quantity}
                    | {"tax_rates": _rates(item.tax_rates)}
                ],
                "default_tax_rates": _rates(subscription.default_tax_rates),
                "start_date": subscription.current_period_start,
                "end_date": subscription.current_period_end,
                "discounts": [{"coupon": each} for each in subscription.discounts or ()],
                "trial_end": subscription.trial_end,
            }
        ]
        self.current_phase = {
            "start_date": subscription.current_period_start,
            "end_date": subscription.current_period_end,
        }
        subscription.schedule = self.id
        _tell(subscription)

    def _update(
        self,
        phases: Any = None,
        end_behavior: str = "release",
        default_settings: Any = None,
        **_: Any,
    ) -> None:
        self.phases, self.end_behavior = phases or self.phases, end_behavior
        self.default_settings |= default_settings or {}


def install(app: web.Application) -> None:  # noqa: PLR0915 - one function per route
    state: dict[str, Any] = {"mode": "well", "rate": 1.0, "delay": 0.0, "under": "/", "calls": 0}
    changed = asyncio.Condition()
    chance = random.Random(0)  # noqa: S311 - reproducible misbehaviour
    answers: dict[str, tuple[int, bytes, bytes]] = {}
    _teach()
    _teach_items()

    @web.middleware
    async def misbehave(request: web.Request, handler: Any) -> web.StreamResponse:
        changes = request.path.startswith("/v1/") and request.method in {"POST", "DELETE"}
        if not changes:
            return await handler(request)  # type: ignore[no-any-return]
        meant = request.path.startswith(state["under"]) and chance.random() < state["rate"]
        mode = state["mode"] if meant else "well"
        state["calls"] += meant
        await asyncio.sleep(state["delay"])
        if mode == "hang":
            await asyncio.sleep(3600)
        if mode == "hold":
            async with changed:
                await changed.wait()
        if mode in _BEFORE:
            return _answer(*_BEFORE[mode])
        key, body = request.headers.get("Idempotency-Key"), await request.read()
        if key is None or key not in answers:
            done = await handler(request)
            if key is None:
                return done  # type: ignore[no-any-return]
            answers[key] = (done.status, done.body, body)
        status, text, before = answers[key]
        if before != body:
            wrong = {"type": "idempotency_error", "message": "the key was used otherwise"}
            return _answer(400, json.dumps({"error": wrong}).encode())
        if mode == "fail_after":
            text = (
                b'{"error": {"type": "api_error", "message": "a fault on request, after the work"}}'
            )
            answers[key] = (500, text, body)  # like Stripe: the first response is repeated
            return _answer(500, text)
        if mode == "hang_after":
            await asyncio.sleep(3600)
        return _answer(status, text)

    @web.middleware
    async def last_invoice(request: web.Request, handler: Any) -> web.StreamResponse:
        """Invoice pending items on cancellation:
        https://docs.stripe.com/api/subscriptions/cancel#cancel_subscription-invoice_now"""
        cancelled = re.fullmatch(r"/v1/subscriptions/([^/]+)", request.path)
        wanted = request.method == "DELETE" and request.query.get("invoice_now") == "true"
        done: web.StreamResponse = await handler(request)
        if cancelled and wanted and done.status == HTTPStatus.OK:
            _invoice_what_is_pending(cancelled[1])
        return done

    async def behave(request: web.Request) -> web.Response:
        wanted = await request.json()
        if wanted.get("mode") not in _MODES:
            return _answer(422, f"mode is one of {', '.join(sorted(_MODES))}".encode())
        state.update({"rate": 1.0, "under": "/", **wanted, "calls": 0})
        async with changed:
            changed.notify_all()
        return _answer(200, json.dumps(state).encode())

    async def see_behaviour(_: web.Request) -> web.Response:
        return web.json_response(state)

    async def move(request: web.Request) -> Any:
        wanted = await request.json()
        subscription = Subscription._api_retrieve(request.match_info["id"])
        before = subscription.status
        events = wanted.pop("events", None)
        for name, value in wanted.items():
            setattr(subscription, name, value)
        if events is None:
            events = ["updated"]
            # https://docs.stripe.com/api/events/types#event_types-customer.subscription.paused
            if subscription.status != before and "paused" in {subscription.status, before}:
                events.append("paused" if subscription.status == "paused" else "resumed")
        for each in events:
            schedule_webhook(Event(f"customer.subscription.{each}", subscription))
        return json_response(subscription._export())

    async def schedule(request: web.Request) -> Any:
        wanted = await get_post_data(request)
        return json_response(SubscriptionSchedule(wanted["from_subscription"])._export())

    async def see_price(request: web.Request) -> web.Response:
        plan = Plan._api_retrieve(request.match_info["id"])
        return web.json_response(price_of(plan._export()))

    async def see_schedule(request: web.Request) -> Any:
        found = SubscriptionSchedule._api_retrieve(request.match_info["id"])
        return json_response(found._export())

    async def change_schedule(request: web.Request) -> Any:
        wanted = await get_post_data(request)
        changed = SubscriptionSchedule._api_update(request.match_info["id"], **wanted)
        return json_response(changed._export())

    async def release(request: web.Request) -> Any:
        found = SubscriptionSchedule._api_retrieve(request.match_info["id"])
        if found.status == "active":
            found.status = "released"
            subscription = Subscription._api_retrieve(found.subscription)
            subscription.schedule = None
            _tell(subscription)
        return json_response(found._export())

    async def portal(request: web.Request) -> Any:
        wanted = await get_post_data(request)
        customer = Customer._api_retrieve(wanted["customer"])
        base = f"{request.scheme}://{request.host}"
        return json_response(
            {
                "id": "bps_1",
                "object": "billing_portal.session",
                "configuration": "bpc_1",
                "livemode": False,
                "customer": customer.id,
                "created": int(time.time()),
                "return_url": wanted["return_url"],
                "url": f"{base}/portal/{customer.id}",
            }
        )

    app.middlewares.extend([misbehave, last_invoice])
    app.router.add_put("/_config/behaviour", behave)
    app.router.add_get("/_config/behaviour", see_behaviour)
    app.router.add_put("/_config/subscriptions/{id}", move)
    app.router.add_post("/v1/subscription_schedules", schedule)
    app.router.add_get("/v1/subscription_schedules/{id}", see_schedule)
    app.router.add_post("/v1/subscription_schedules/{id}", change_schedule)
    app.router.add_post("/v1/subscription_schedules/{id}/release", release)
    app.router.add_get("/v1/prices/{id}", see_price)
    app.router.add_post("/v1/billing_portal/sessions", portal)


def _answer(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _tell(subscription: Any) -> None:
    schedule_webhook(Event("customer.subscription.updated", subscription))


def _teach() -> None:  # noqa: PLR0915 - one function per extension
    """Add Stripe's current names for what localstripe knows under former ones, and the previous
    values in its events."""
    begin, change = Subscription.__init__, Subscription._update
    following = Invoice._get_next_invoice
    make_event = Event.__init__
    known: dict[str, Any] = {}

    def event(self: Any, type: str, data: Any) -> None:
        make_event(self, type, data)
        self.livemode = False
        now = json.loads(json.dumps(self.data["object"]))
        if type.endswith(".updated"):
            self.data["previous_attributes"] = _changed(known.get(data.id, now), now)
        known[data.id] = now

    def create(
        self: Any, items: Any = None, discounts: Any = None, default_payment_method: Any = None,
        trial_settings: Any = None, payment_settings: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        coupon = _coupon(discounts)
        # localstripe uses the customer's method first, and Stripe the subscription's own.
        with _paying_with(more["customer"], default_payment_method):
            begin(self, items=_plans(items), **more)
        self.default_payment_method = default_payment_method
        self.schedule = None
        self.discounts = coupon
        self.trial_settings, self.payment_settings = trial_settings, payment_settings
        if self.trial_period_days is not None:
            self.status, self.trial_start = "trialing", int(time.time())
            _tell(self)

    def update(
        self: Any, items: Any = None, discounts: Any = None, proration_behavior: Any = None,
        default_payment_method: Any = None, billing_cycle_anchor: Any = None,
        payment_behavior: str = "allow_incomplete", **more: Any,
    ) -> None:  # fmt: skip
        if self.status == "canceled":
            raise UserError(404, "No such subscription: it is canceled")
        if self.schedule is not None and "cancel_at_period_end" in more:
            raise UserError(400, "The subscription is managed by a schedule: release it first")
        coupon = _coupon(discounts)
        prorate = None if proration_behavior is None else proration_behavior != "none"
        cancel_at = more.pop("cancel_at", None)
        plan, plans = self.plan.id, _plans(items)
        anchored = (billing_cycle_anchor or {}).get("type") == "now"
        changes = plans is not None and plans[0]["plan"] not in {None, plan}
        invoices = self.status != "trialing" and changes and proration_behavior == "always_invoice"
        if (anchored or invoices) and payment_behavior == "error_if_incomplete":
            _check_can_pay(self, plans)
        with _flexibly(self, anchored=anchored):
            change(self, items=plans, prorate=prorate, **more)
        if invoices and not anchored:
            self._create_invoice()
        if "cancel_at_period_end" in more:
            self.cancel_at = self.current_period_end if self.cancel_at_period_end else None
        if cancel_at is not None:
            self.cancel_at = int(cancel_at) if cancel_at != "" else None
        if discounts is not None:
            self.discounts = coupon
        if default_payment_method is not None:
            self.default_payment_method = default_payment_method or None
        _tell(self)

    def next_invoice(subscription_items: Any = None, **more: Any) -> Any:
        return following(subscription_items=_plans(subscription_items), **more)

    Event.__init__ = event
    Subscription.__init__, Subscription._update = create, update
    Invoice._get_next_invoice = staticmethod(next_invoice)


def _teach_items() -> None:
    """Support adding items to a subscription and removing them."""
    create, delete = SubscriptionItem._api_create, SubscriptionItem._api_delete

    def add(cls: Any, /, subscription: str, price: str, **more: Any) -> Any:
        """Add an item: https://docs.stripe.com/api/subscription_items/create"""
        item = create(subscription=subscription, plan=price, **more)
        changed = Subscription._api_retrieve(subscription)
        item.subscription, item.discounts = subscription, []
        item.price = price_of(item.plan._export())
        item.current_period_start = changed.current_period_start
        item.current_period_end = changed.current_period_end
        changed.items._list.append(item)
        _tell(changed)
        return item

    def remove(cls: Any, /, id: str) -> Any:
        """Remove an item: https://docs.stripe.com/api/subscription_items/delete"""
        item = SubscriptionItem._api_retrieve(id)
        changed = Subscription._api_retrieve(item._subscription)
        changed.items._list.remove(item)
        removed = delete(id)
        _tell(changed)
        return removed

    SubscriptionItem._api_create, SubscriptionItem._api_delete = (
        classmethod(add),
        classmethod(remove),
    )


def _changed(before: Any, now: Any) -> dict[str, Any]:
    """Return the former values of the changed attributes: of objects only the changed parts, arrays
    in full.

    https://docs.stripe.com/api/events/object#event_object-data-previous_attributes
    """
    found: dict[str, Any] = {}
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        nested = isinstance(old, dict) and isinstance(new, dict)
        found[key] = _changed(old, new) if nested else old
    return found


def _plans(items: Any) -> Any:
    """Convert prices to localstripe's plans. Items have no ids to retain here."""
    if items is None:
        return None
    return [
        {"plan": each.get("price") or each.get("plan"), "quantity": each.get("quantity") or 1}
        for each in items
    ]


@contextmanager
def _flexibly(subscription: Any, *, anchored: bool) -> Iterator[None]:
    """Suppress localstripe's immediate invoice for another interval, as in classic billing.

    https://docs.stripe.com/billing/subscriptions/billing-mode/compare
    """
    if not anchored:
        subscription._create_invoice = lambda: None
    yield
    subscription.__dict__.pop("_create_invoice", None)


@contextmanager
def _paying_with(customer: str, method: str | None) -> Iterator[None]:
    before = Customer._api_retrieve(customer).invoice_settings.get("default_payment_method")
    if method is not None:
        Customer._api_update(customer, invoice_settings={"default_payment_method": method})
    yield
    if method is not None:
        Customer._api_update(customer, invoice_settings={"default_payment_method": before or ""})


def _invoice_what_is_pending(subscription: str) -> None:
    customer = Subscription._api_retrieve(subscription).customer
    items = InvoiceItem._api_list_all(None, customer=customer, limit=99)._list
    if pending := [each for each in items if each.invoice is None]:
        invoice = Invoice(customer=customer, items=pending)
        invoice._finalize()
        if invoice.status == "open":  # a credit leaves nothing to pay
            Invoice._api_pay_invoice(invoice.id)


def _rates(known: Any) -> list[Any]:
    """Return the tax rates of a subscription or an item, which has ids once it was updated."""
    names = [each if isinstance(each, str) else each.id for each in known or ()]
    return [TaxRate._api_retrieve(each)._export() for each in names]


def _check_can_pay(subscription: Any, plans: Any) -> None:
    """Raise as
    https://docs.stripe.com/api/subscriptions/update#update_subscription-payment_behavior"""
    amount = Plan._api_retrieve(plans[0]["plan"]).amount if plans else subscription.plan.amount
    if not amount:
        return
    customer = Customer._api_retrieve(subscription.customer)
    own = subscription.default_payment_method
    method = (
        PaymentMethod._api_retrieve(own)
        if own
        else customer._get_default_payment_method_or_source()
    )
    if method is None:
        raise UserError(400, "This customer has no attached payment source or default method")
    if method._charging_is_declined():
        raise UserError(402, "Your card was declined.", {"code": "card_declined"})


def _coupon(discounts: Any) -> list[str]:
    """Return the coupons' ids. Raises a 404 for an unknown one."""
    return [Coupon._api_retrieve(each["coupon"]).id for each in discounts or ()]
