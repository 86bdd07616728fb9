"""What Stripe Billing has and localstripe has not: prices, discounts, schedules, the portal, keys
of idempotency, webhooks of changes. And trouble, when it is told to make some.

`PUT /_config/behaviour` with `{"mode": "fail"}` answers 500 before the work, `fail_after` 500 after
it, `hang` never and without the work, `hang_after` never after it, `too_often` 429; `rate` is the
share of the calls that change something, `delay` how many seconds they take, `well` ends it.

`PUT /_config/subscriptions/{id}` is what Stripe or its portal does by itself: `{"status":
"unpaid"}`, `{"cancel_at": 1798392000}`; with `"events": ["paused"]` only these are sent of it.
`PUT /_config/refunds/{id}/failed`: the payer's bank could not take it, and the money is back.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

from aiohttp import web
from localstripe.errors import UserError
from localstripe.resources import (
    Charge,
    Coupon,
    Customer,
    Event,
    Invoice,
    Plan,
    Refund,
    StripeObject,
    Subscription,
    SubscriptionItem,
)
from localstripe.server import get_post_data, json_response
from localstripe.webhooks import schedule_webhook

from sandbox.stripe_objects import price as price_of

_BEFORE = {
    "fail": (500, b'{"error": {"type": "api_error", "message": "told to fail"}}'),
    "too_often": (429, b'{"error": {"type": "rate_limit_error", "message": "slowly"}}'),
}
_MODES = {"well", "fail_after", "hang", "hang_after", *_BEFORE}


class SubscriptionSchedule(StripeObject):  # type: ignore[misc]
    """https://docs.stripe.com/api/subscription_schedules/object, as far as it is used here. Nothing
    moves its phases on."""

    object = "subscription_schedule"
    _id_prefix = "sub_sched_"

    def __init__(self, from_subscription: str) -> None:
        subscription = Subscription._api_retrieve(from_subscription)
        super().__init__()
        self.subscription = from_subscription
        self.customer = subscription.customer
        self.status = "active"
        self.end_behavior = "release"
        self.phases: Any = [
            {
                "items": [{"price": subscription.plan.id, "quantity": subscription.quantity}],
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

    def _update(self, phases: Any = None, end_behavior: str = "release", **_: Any) -> None:
        self.phases, self.end_behavior = phases or self.phases, end_behavior


def install(app: web.Application) -> None:  # noqa: PLR0915 - a route, a function
    state: dict[str, Any] = {"mode": "well", "rate": 1.0, "delay": 0.0}
    chance = random.Random(0)  # noqa: S311 - misbehaviour that can be repeated
    answers: dict[str, tuple[int, bytes, bytes]] = {}
    _teach()
    _teach_items()

    @web.middleware
    async def misbehave(request: web.Request, handler: Any) -> web.StreamResponse:
        changes = request.path.startswith("/v1/") and request.method in {"POST", "DELETE"}
        if not changes:
            return await handler(request)  # type: ignore[no-any-return]
        mode = state["mode"] if chance.random() < state["rate"] else "well"
        await asyncio.sleep(state["delay"])
        if mode == "hang":
            await asyncio.sleep(3600)
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
            text = b'{"error": {"type": "api_error", "message": "told to fail after the work"}}'
            answers[key] = (500, text, body)  # as Stripe does: the first answer is repeated
            return _answer(500, text)
        if mode == "hang_after":
            await asyncio.sleep(3600)
        return _answer(status, text)

    async def behave(request: web.Request) -> web.Response:
        wanted = await request.json()
        if wanted.get("mode") not in _MODES:
            return _answer(422, f"mode is one of {', '.join(sorted(_MODES))}".encode())
        state.update({"rate": 1.0, **wanted})
        return _answer(200, json.dumps(state).encode())

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

    async def fail_refund(request: web.Request) -> Any:
        refund = Refund._api_retrieve(request.match_info["id"])
        refund.status, refund.failure_reason = "failed", "expired_or_canceled_card"
        for each in ("refund.updated", "refund.failed", "charge.refund.updated"):
            schedule_webhook(Event(each, refund))
        return json_response(refund._export())

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

    app.middlewares.append(misbehave)
    app.router.add_put("/_config/behaviour", behave)
    app.router.add_put("/_config/subscriptions/{id}", move)
    app.router.add_put("/_config/refunds/{id}/failed", fail_refund)
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


def _teach() -> None:
    """Stripe's present names for what localstripe knows by its former ones; and what its events
    say of what was so before."""
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
        **more: Any,
    ) -> None:  # fmt: skip
        coupon = _coupon(discounts)
        if default_payment_method is not None:
            settings = {"default_payment_method": default_payment_method}
            Customer._api_update(more["customer"], invoice_settings=settings)
        begin(self, items=_plans(items), **more)
        self.schedule = None
        self.discounts = coupon
        if self.trial_period_days is not None:
            self.status, self.trial_start = "trialing", int(time.time())
            _tell(self)

    def update(
        self: Any, items: Any = None, discounts: Any = None, proration_behavior: Any = None,
        **more: Any,
    ) -> None:  # fmt: skip
        if self.status == "canceled":
            raise UserError(404, "No such subscription: it is canceled")
        if self.schedule is not None and "cancel_at_period_end" in more:
            raise UserError(400, "The subscription is managed by a schedule: release it first")
        coupon = _coupon(discounts)
        prorate = None if proration_behavior is None else proration_behavior != "none"
        cancel_at = more.pop("cancel_at", None)
        change(self, items=_plans(items), prorate=prorate, **more)
        if "cancel_at_period_end" in more:
            self.cancel_at = self.current_period_end if self.cancel_at_period_end else None
        if cancel_at is not None:
            self.cancel_at = int(cancel_at) if cancel_at != "" else None
        if discounts is not None:
            self.discounts = coupon
        _tell(self)

    def next_invoice(subscription_items: Any = None, **more: Any) -> Any:
        return following(subscription_items=_plans(subscription_items), **more)

    def give_back(self: Any, **wanted: Any) -> None:
        begin_refund(self, **wanted)
        schedule_webhook(Event("charge.refunded", Charge._api_retrieve(self.charge)))

    begin_refund, Refund.__init__ = Refund.__init__, give_back
    Event.__init__ = event
    Subscription.__init__, Subscription._update = create, update
    Invoice._get_next_invoice = staticmethod(next_invoice)


def _teach_items() -> None:
    """That they are added to a subscription and taken from it."""
    create, delete = SubscriptionItem._api_create, SubscriptionItem._api_delete

    def add(cls: Any, /, subscription: str, price: str, **more: Any) -> Any:
        """https://docs.stripe.com/api/subscription_items/create"""
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
        """https://docs.stripe.com/api/subscription_items/delete"""
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
    """The former values of what changed: of objects only what of them did, arrays whole.

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
    """Prices are plans here, and items have no ids to keep."""
    if items is None:
        return None
    return [
        {"plan": each.get("price") or each.get("plan"), "quantity": each.get("quantity") or 1}
        for each in items
    ]


def _coupon(discounts: Any) -> list[str]:
    """Raises a 404 for one that there is not."""
    return [Coupon._api_retrieve(each["coupon"]).id for each in discounts or ()]
