"""What happens at Stripe itself: payments that Paybus did not start, a refund that fails, a dispute
that is won, a subscription that is paused, and one to two plans. Each is looked up in the API, in
the journal and on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from devstack.demo.base import everything
from devstack.demo.report import Check
from devstack.processes.system import Layout
from devstack.tokens import DevKeys

_CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2040", "cvc": "123"}
_PLANS = {"demo-base": 1500, "demo-seat": 500}
_SEATS = 4
_BACK = 300
_EVENTS = 6
# What the console says of an event beside its type.
_SUMMARIES = {"payment.disputed": ">won, 5000 USD<"}


class StripeLife:
    def __init__(self, layout: Layout, keys: DevKeys) -> None:
        self._layout = layout
        self._keys = keys
        self._stripe = httpx.AsyncClient(
            base_url=layout.url("sandbox-stripe"), auth=("sk_test_demo", ""), timeout=30
        )
        headers = {"Authorization": f"Bearer {keys.token('operator')}"}
        self._http = httpx.AsyncClient(headers=headers, timeout=30)
        self._single: dict[str, str] = {}
        self._paused = self._two_items = ""
        # By event type: the subject of the event about what happened.
        self._subjects: dict[str, str] = {}

    async def close(self) -> None:
        await self._stripe.aclose()
        await self._http.aclose()

    async def live(self) -> None:
        for plan, amount in _PLANS.items():
            form = {"id": plan, "amount": str(amount), "currency": "usd", "interval": "month"}
            await self._call("POST", "/v1/plans", form | {"product[name]": plan})
        await self._live_through_payments()
        self._paused = await self._subscribe()
        await self._put(f"/_config/subscriptions/{self._paused}", status="paused")
        self._two_items = await self._subscribe()
        seats = {"subscription": self._two_items, "price": "demo-seat", "quantity": str(_SEATS)}
        await self._call("POST", "/v1/subscription_items", seats)

    async def _live_through_payments(self) -> None:
        for what in ("refunded", "failing refund", "disputed"):
            self._single[what] = await self._pay_once()
        intent = self._single["refunded"]
        await self._refund(intent)
        failing = await self._refund(self._single["failing refund"])
        await self._put(f"/_config/refunds/{failing}/failed")
        disputed = await self._charge(self._single["disputed"])
        for status in ("needs_response", "won"):
            dispute = await self._put(f"/_config/charges/{disputed}/dispute", status=status)
        self._subjects |= {
            "payment.succeeded": f"stripe/{intent}",
            "payment.refunded": f"stripe/{await self._charge(intent)}",
            "refund.reported": f"stripe/{failing}",
            "payment.disputed": f"stripe/{dispute['id']}",
        }

    async def _charge(self, intent: str) -> str:
        return str((await self._call("GET", f"/v1/payment_intents/{intent}"))["latest_charge"])

    async def checks(self) -> list[Check]:
        payments = await self._payments()
        subscriptions = await self._subscriptions()
        self._subjects |= {
            "subscription.suspended": subscriptions[self._paused].get("id", ""),
            "subscription.plan_changed": subscriptions[self._two_items].get("id", ""),
        }
        journal, on_console = await self._journaled(), await self._on_console()
        disputes = [each["status"] for each in payments["disputed"].get("reversals", ())]
        items = subscriptions[self._two_items].get("items", ())
        return [
            Check("single payments", len(self._single), sum(map(_is_paid, payments.values()))),
            Check("refunded of one", _BACK, payments["refunded"].get("amount_refunded", 0)),
            Check(
                "refunded by the refund that failed",
                0,
                payments["failing refund"].get("amount_refunded", _BACK),
            ),
            Check("disputes that were won", 1, disputes.count("won")),
            Check("paused", 1, int(subscriptions[self._paused].get("status") == "paused")),
            Check("plans and seats of two items", 2 + _SEATS, len(items) + _seats(items)),
            Check("of these in the journal", _EVENTS, journal),
            Check("of these on the console", _EVENTS, on_console),
        ]

    async def _payments(self) -> dict[str, dict[str, Any]]:
        url = f"{self._layout.url('subscription-api')}/v1/payments"
        listed = await everything(self._http, url)
        by_id = {each["provider_payment_id"]: each for each in listed}
        assert len(by_id) == len(listed), "a payment is listed twice"
        return {what: by_id.get(id_, {}) for what, id_ in self._single.items()}

    async def _subscriptions(self) -> dict[str, dict[str, Any]]:
        url = f"{self._layout.url('subscription-api')}/v1/subscriptions"
        found = {}
        for id_ in (self._paused, self._two_items):
            answer = await self._http.get(url, params={"provider_subscription_id": id_})
            items = answer.raise_for_status().json()["items"]
            found[id_] = items[0] if items else {}
        return found

    async def _journaled(self) -> int:
        url = f"{self._layout.url('operations-api')}/v1/journal"
        found = 0
        for type_, subject in self._subjects.items():
            found += bool(await everything(self._http, url, type=type_, subject=subject))
        return found

    async def _on_console(self) -> int:
        """Count the events that the console's journal lists, in a browser's session."""
        base = f"{self._layout.url('operations-api')}/console"
        found = 0
        async with httpx.AsyncClient(timeout=30) as browser:
            token = {"token": self._keys.token("operator")}
            answer = await browser.post(f"{base}/login", data=token)
            assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
            for type_, subject in self._subjects.items():
                chosen = {"type": type_, "subject": subject}
                page = await browser.get(f"{base}/journal", params=chosen)
                shown = page.raise_for_status().text
                found += f">{type_}<" in shown and _SUMMARIES.get(type_, "") in shown
        return found

    async def _pay_once(self) -> str:
        """Pay by a page that the shop itself opened at Stripe; return the payment intent."""
        price = {
            "line_items[0][price_data][currency]": "usd",
            "line_items[0][price_data][unit_amount]": "5000",
            "line_items[0][price_data][product_data][name]": "a thing",
            "line_items[0][quantity]": "1",
        }
        page = await self._call("POST", "/v1/checkout/sessions", {"mode": "payment", **price})
        paid = await self._call("POST", f"/_config/checkout/{page['id']}/pay")
        return str(paid["payment_intent"])

    async def _refund(self, intent: str) -> str:
        form = {"payment_intent": intent, "amount": str(_BACK)}
        return str((await self._call("POST", "/v1/refunds", form))["id"])

    async def _subscribe(self) -> str:
        form = {"email": "life@example.com", "name": "Life"}
        customer = (await self._call("POST", "/v1/customers", form))["id"]
        card = {"type": "card", **{f"card[{name}]": value for name, value in _CARD.items()}}
        method = (await self._call("POST", "/v1/payment_methods", card))["id"]
        attach = f"/v1/payment_methods/{method}/attach"
        await self._call("POST", attach, {"customer": customer})
        chosen = {"invoice_settings[default_payment_method]": method}
        await self._call("POST", f"/v1/customers/{customer}", chosen)
        wanted = {"customer": customer, "items[0][price]": "demo-base"}
        return str((await self._call("POST", "/v1/subscriptions", wanted))["id"])

    async def _put(self, path: str, **body: str) -> dict[str, Any]:
        answer = await self._stripe.put(path, json=body)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def _call(
        self, method: str, path: str, form: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer = await self._stripe.request(method, path, data=form)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def _is_paid(payment: Mapping[str, Any]) -> bool:
    return bool(payment.get("paid"))


def _seats(items: Any) -> int:
    return sum(each["quantity"] for each in items if each["quantity"] != 1)
