"""Payments at the sandbox's mobile money providers, and the events that Paybus publishes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from common.contracts.event import Event
from common.contracts.payments import CheckoutStarted
from support.paybus import Paybus
from support.waiting import until

PROVIDERS = ("fapshi", "mtn-momo", "orange-money", "flutterwave")
AMOUNT = 500


@dataclass(frozen=True)
class Checkout:
    """A payment at a provider. `reference` is the provider's; `event` is the `checkout.started`
    event of the shop."""

    paybus: Paybus
    provider: str
    reference: str
    event: Event[CheckoutStarted]

    def announce(self) -> None:
        """Publish the event, as the subscription service does."""
        self.paybus.publish_to("payments", "checkout.started", self.event.encode().decode())

    def settle(self, standing: str) -> None:
        """Set the payment's status at the provider, as the payer's action would."""
        url = f"/_payments/{self.provider}/_{self.reference}"
        sandbox(self.paybus, "PUT", url, standing=standing)

    def forge(self, claim: str) -> None:
        """Forge a callback with knowledge of the payment's reference and every secret."""
        body = {"provider": self.provider, "reference": self.reference, "claim": claim}
        sandbox(self.paybus, "POST", "/_forge", **body)

    def told(self) -> list[str]:
        """Return the types of the events that report the payment's outcome."""
        return [each["type"] for each in self.events()]

    def events(self) -> list[dict[str, Any]]:
        subject = f"{self.provider}/{self.reference}"
        return [
            each
            for each in self.paybus.tapped()
            if each["subject"] == subject and each["type"] != "payment.notification_received"
        ]

    def announce_and_ask(self) -> None:
        """Announce the payment, and make its first status query due."""
        self.announce()
        until(self._watched, what=f"the payment at {self.provider} is watched")
        ask_now(self.paybus)

    def closed(self) -> bool:
        """Return whether the payment is not polled any more, and was not a moment ago; of a paid
        one, only the last query for a further charge may be left."""
        due = (
            "UPDATE pending_payments SET next_poll_at = now() "
            "WHERE reference = %s AND next_poll_at < now() "
        )
        self.paybus.sql("webhook-gateway", due + "+ interval '2 minutes'", self.reference)
        query = (
            "SELECT next_poll_at IS NULL "
            "OR (published_status = 'succeeded' AND next_poll_at > now() + interval '2 min') "
            "FROM pending_payments WHERE reference = %s"
        )
        return self.paybus.sql("webhook-gateway", query, self.reference) == [(True,)]

    def _watched(self) -> bool:
        query = "SELECT 1 FROM pending_payments WHERE reference = %s AND announced"
        return bool(self.paybus.sql("webhook-gateway", query, self.reference))


def sandbox(paybus: Paybus, method: str, path: str, **body: Any) -> Any:
    url = f"{paybus.layout.url('sandbox-providers')}{path}"
    answer = paybus.http.request(method, url, json=body).raise_for_status()
    return answer.json() if answer.content else None


def deliver(paybus: Paybus, **behaviour: Any) -> None:
    """Deliver callbacks to the gateway, with the faults in `behaviour`."""
    gateway = paybus.layout.url("webhook-gateway")
    urls = {provider: f"{gateway}/webhooks/{provider}" for provider in PROVIDERS}
    sandbox(paybus, "PUT", "/_delivery", urls=urls, **behaviour)


def tap(paybus: Paybus) -> None:
    """Collect payment events for `Checkout.told`; call it before the first payment."""
    paybus.tap("payments", "payment.*")


def ask_now(paybus: Paybus) -> None:
    """Make every future status query due now."""
    paybus.sql(
        "webhook-gateway",
        "UPDATE pending_payments SET next_poll_at = now() WHERE next_poll_at IS NOT NULL",
    )


def long_ago(payment: Checkout) -> None:
    """Set the last poll to a minute ago, so that the next notification causes a poll at once."""
    payment.paybus.sql(
        "webhook-gateway",
        "UPDATE pending_payments SET last_polled_at = now() - interval '1 minute' "
        "WHERE reference = %s",
        payment.reference,
    )


def asked(paybus: Paybus, provider: str) -> int:
    """Return how often the provider was queried about a payment."""
    count: int = sandbox(paybus, "GET", "/_money")["asked"].get(provider, 0)
    return count


def checkout(
    paybus: Paybus, provider: str, *, endpoint: str = "default", expires_in: float = 3600
) -> Checkout:
    """Start a payment at the provider without announcing it."""
    ours = str(uuid4())
    reference, more = _begin(paybus, provider, ours)
    now = datetime.now(UTC)
    started = CheckoutStarted(
        provider=provider,
        endpoint=endpoint,
        reference=reference,
        checkout_id=ours,
        amount=AMOUNT,
        currency="XAF",
        expires_at=now + timedelta(seconds=expires_in),
        **more,
    )
    event = Event[CheckoutStarted](
        id=f"started-{ours}",
        source="/test",
        type="checkout.started",
        subject=ours,
        time=now,
        recordedtime=now,
        tenant="default",
        correlationid=f"started-{ours}",
        trust="signature",
        data=started,
    )
    return Checkout(paybus, provider, reference, event)


def _begin(paybus: Paybus, provider: str, ours: str) -> tuple[str, dict[str, Any]]:
    base = f"{paybus.layout.url('sandbox-providers')}/{provider}"
    match provider:
        case "fapshi":
            answer = paybus.http.post(
                f"{base}/initiate-pay",
                json={"amount": AMOUNT, "externalId": ours},
                headers={"apiuser": "u", "apikey": "k"},
            )
            return answer.raise_for_status().json()["transId"], {}
        case "mtn-momo":
            answer = paybus.http.post(
                f"{base}/collection/v1_0/requesttopay",
                headers={"X-Reference-Id": ours},
                json={
                    "amount": str(AMOUNT),
                    "currency": "XAF",
                    "externalId": ours,
                    "payer": {"partyIdType": "MSISDN", "partyId": "237670000000"},
                },
            )
            answer.raise_for_status()
            return ours, {}
        case "orange-money":
            answer = paybus.http.post(
                f"{base}/orange-money-webpay/cm/v1/webpayment",
                json={"order_id": ours[:30], "amount": AMOUNT, "currency": "XAF"},
            ).raise_for_status()
            return ours[:30], _orange(ours[:30], answer.json())
        case _:
            answer = paybus.http.post(
                f"{base}/v3/payments",
                json={
                    "tx_ref": ours,
                    "amount": AMOUNT,
                    "currency": "XAF",
                    "customer": {"email": "payer@example.com"},
                },
            )
            answer.raise_for_status()
            return ours, {}


def _orange(order: str, answer: dict[str, Any]) -> dict[str, Any]:
    lookup = {
        "order_id": order,
        "amount": str(AMOUNT),
        "currency": "XAF",
        "pay_token": answer["pay_token"],
    }
    hashed = hashlib.sha256(answer["notif_token"].encode()).hexdigest()
    return {"notification_reference": hashed, "lookup": lookup}
