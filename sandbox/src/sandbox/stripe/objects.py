"""Stripe's objects in its current API, converted from localstripe's, which are those of 2019.

The fields and their types are those of the official SDK, which is generated from Stripe's OpenAPI
file; test_described_stripe.py checks every response and webhook against it. The
larger changes since: https://docs.stripe.com/changelog/basil (periods belong to items, an invoice
names its subscription under `parent` and no payment intent) and
https://docs.stripe.com/changelog/clover (a discount names its coupon under `source`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

from localstripe.resources import StripeObject

from sandbox.stripe.api import VERSION

Thing = dict[str, Any]


def install() -> None:
    """Convert all responses and webhooks of localstripe to the current API."""
    export = StripeObject._export

    def present(self: Any, expand: Any = None) -> Thing:
        wanted = set(expand or ())
        thing = export(self, [each for each in wanted if not each.endswith("discounts")])
        return _present(thing, {each.rpartition(".")[2] for each in wanted})

    StripeObject._export = present


def _present(thing: Thing, expanded: Collection[str]) -> Thing:
    kind = thing.get("object", "")
    if kind not in _ADDED:
        return thing
    change = _CHANGES.get(kind)
    found = change(copy.deepcopy(thing), expanded) if change is not None else thing
    kept = {key: value for key, value in found.items() if key not in _DROPPED.get(kind, ())}
    return copy.deepcopy(dict(_ADDED[kind])) | kept


def _subscription(thing: Thing, expanded: Collection[str]) -> Thing:
    period = {name: thing[name] for name in ("current_period_start", "current_period_end")}
    items = thing["items"]["data"]
    for item in items:
        item.update(price=price(item["plan"]), subscription=thing["id"], discounts=[], **period)
    thing["currency"] = thing["plan"]["currency"] if thing["plan"] else "usd"
    thing["billing_cycle_anchor"] = thing["billing_cycle_anchor"] or thing["start_date"]
    thing["discounts"] = [
        _discount(each, thing) if "discounts" in expanded else f"di_{each}"
        for each in thing.get("discounts") or ()
    ]
    return thing


def _discount(coupon: str, subscription: Thing) -> Thing:
    return {
        "id": f"di_{coupon}",
        "object": "discount",
        "source": {"type": "coupon", "coupon": coupon},
        "start": subscription["start_date"],
        "end": None,
        "subscription": subscription["id"],
        "customer": subscription["customer"],
    }


def price(plan: Thing) -> Thing:
    """Convert a plan to a price, its current name. https://docs.stripe.com/api/prices/object"""
    recurring = {name: plan[name] for name in ("interval", "interval_count", "usage_type")}
    same = ("id", "active", "billing_scheme", "created", "currency", "livemode", "metadata")
    return {
        **{name: plan[name] for name in same},
        "object": "price",
        "nickname": plan["nickname"],
        "product": plan["product"],
        "recurring": recurring | {"meter": None, "trial_period_days": None},
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "type": "recurring",
        "unit_amount": plan["amount"],
        "unit_amount_decimal": str(plan["amount"]) if plan["amount"] is not None else None,
    }


def _invoice(thing: Thing, _: Collection[str]) -> Thing:
    subscription = thing["subscription"]
    details = {"subscription": subscription, "metadata": {}}
    thing["parent"] = subscription and {
        "type": "subscription_details",
        "subscription_details": details,
        "quote_details": None,
    }
    thing["amount_remaining"] = thing["amount_due"] - thing["amount_paid"]
    thing["period_start"] = thing["period_start"] or thing["created"]
    thing["period_end"] = thing["period_end"] or thing["created"]
    thing["default_tax_rates"] = thing["default_tax_rates"] or []
    thing["lines"]["data"] = [_line(each) for each in thing["lines"]["data"]]
    return thing


def _line(line: Thing) -> Thing:
    item = {
        "subscription": line.get("subscription"),
        "subscription_item": line.get("subscription_item"),
        "invoice_item": line.get("invoice_item"),
        "proration": line["proration"],
        "proration_details": None,
    }
    of_item = line["type"] != "subscription"
    kind = "invoice_item_details" if of_item else "subscription_item_details"
    item.pop("subscription_item" if of_item else "ignored", None)
    same = ("id", "object", "amount", "currency", "description", "invoice", "livemode", "metadata")
    plan = line["plan"]
    return {
        **{name: line[name] for name in (*same, "period", "quantity")},
        "subscription": line.get("subscription"),
        "subtotal": line["amount"],
        "discountable": True,
        "discounts": [],
        "discount_amounts": [],
        "taxes": [],
        "parent": {
            "type": kind,
            "invoice_item_details": None,
            "subscription_item_details": None,
            kind: item,
        },
        "pricing": plan
        and {
            "type": "price_details",
            "price_details": {"price": plan["id"], "product": plan["product"]},
            "unit_amount_decimal": str(plan["amount"]),
        },
    }


def _intent(thing: Thing, expanded: Collection[str]) -> Thing:
    charge = thing["latest_charge"]
    if isinstance(charge, dict) and "latest_charge" not in expanded:
        thing["latest_charge"] = charge["id"]
    thing["amount_received"] = thing["amount"] if thing["status"] == "succeeded" else 0
    return thing


def _charge(thing: Thing, _: Collection[str]) -> Thing:
    thing["amount_captured"] = thing["amount"] if thing["captured"] else 0
    return thing


def _schedule(thing: Thing, _: Collection[str]) -> Thing:
    names = ("coupon", "discount", "promotion_code")
    for phase in thing["phases"]:
        phase.setdefault("end_date", phase.get("start_date", 0))
        phase["discounts"] = [dict.fromkeys(names) | each for each in phase.get("discounts") or ()]
        phase |= {"add_invoice_items": [], "currency": "usd", "proration_behavior": "none"}
        for item in phase["items"]:
            item |= {"plan": item["price"], "discounts": []}
    return thing


_CHANGES: Mapping[str, Callable[[Thing, Collection[str]], Thing]] = {
    "subscription": _subscription,
    "invoice": _invoice,
    "payment_intent": _intent,
    "charge": _charge,
    "subscription_schedule": _schedule,
}
# Fields that no longer exist, and fields added since, with their default values.
_DROPPED: Mapping[str, Collection[str]] = {
    "subscription": {
        "current_period_end", "current_period_start", "discount", "plan", "quantity",
        "tax_percent", "trial_from_plan", "trial_period_days",
    },
    "invoice": {
        "application_fee", "charge", "date", "discount", "payment_intent", "subscription", "tax",
        "tax_percent", "total_tax_amounts",
    },
    "customer": {"account_balance", "business_vat_id", "subscriptions"},
    "payment_intent": {"charges", "invoice"},
    "charge": {"invoice"},
    "plan": {"name", "statement_descriptor"},
    "product": {"attributes", "caption"},
    "refund": {"date", "livemode"},
    "subscription_item": {"invoice", "livemode"},
}  # fmt: skip
_NO_TAX = {"enabled": False, "disabled_reason": None, "liability": None}
_SELF = {"type": "self", "account": None}
_ADDED: Mapping[str, Mapping[str, Any]] = {
    "subscription": {
        "automatic_tax": _NO_TAX,
        "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}},
        "billing_schedules": [],
        "collection_method": "charge_automatically",
        "invoice_settings": {"issuer": _SELF},
        "pause_collection": None,
        "schedule": None,
    },
    "invoice": {
        "amount_overpaid": 0,
        "amount_shipping": 0,
        "automatic_tax": _NO_TAX | {"provider": None, "status": None},
        "discounts": [],
        "issuer": _SELF,
        "payment_settings": {"default_mandate": None, "payment_method_types": None},
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "total_taxes": [],
    },
    "customer": {"balance": 0},
    "payment_intent": {
        "amount_capturable": 0,
        "confirmation_method": "automatic",
        "payment_method_types": ["card"],
    },
    "charge": {"billing_details": {}, "disputed": False},
    "dispute": {},
    "invoice_payment": {},
    "webhook_endpoint": {},
    "plan": {},
    "product": {"images": [], "marketing_features": [], "updated": 0},
    "refund": {},
    "subscription_item": {},
    "event": {"api_version": VERSION, "pending_webhooks": 1},
    "checkout.session": {
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "custom_fields": [],
        "custom_text": {},
        "payment_method_types": ["card"],
        "shipping_options": [],
    },
    "subscription_schedule": {
        "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}},
        "default_settings": {
            "billing_cycle_anchor": "automatic",
            "invoice_settings": {"issuer": _SELF},
        },
        "pause_schedules": [],
    },
}
