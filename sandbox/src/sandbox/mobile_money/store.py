"""Payments at the mobile money providers, and each provider's representation of a payment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import HTTPException

from sandbox.webhook_sender import Postman

Standing = Literal["pending", "succeeded", "failed", "expired"]


@dataclass
class Payment:
    """`reference` is the provider's name for the payment, `external` the merchant's; `asked` counts
    the merchant's status queries. `begun` and `paid` are times, UTC; `again` those of further
    charges for the same payment."""

    provider: str
    reference: str
    external: str
    amount: Any
    currency: str
    standing: Standing = "pending"
    asked: int = 0
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    paid: datetime | None = None
    again: list[datetime] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return _WORDS[self.provider][self.standing]


_WORDS: Mapping[str, Mapping[str, str]] = {
    "fapshi": {
        "pending": "CREATED",
        "succeeded": "SUCCESSFUL",
        "failed": "FAILED",
        "expired": "EXPIRED",
    },
    "mtn-momo": {
        "pending": "PENDING",
        "succeeded": "SUCCESSFUL",
        "failed": "FAILED",
        "expired": "FAILED",
    },
    "orange-money": {
        "pending": "INITIATED",
        "succeeded": "SUCCESS",
        "failed": "FAILED",
        "expired": "EXPIRED",
    },
    "flutterwave": {
        "pending": "pending",
        "succeeded": "successful",
        "failed": "failed",
        "expired": "failed",
    },
}


class MobileMoney:
    """The payments of all four providers. `secrets` authenticate the callbacks."""

    def __init__(self, secrets: Mapping[str, str], *, seed: int) -> None:
        self.payments: dict[tuple[str, str], Payment] = {}
        self.asked: Counter[str] = Counter()
        self.postman = Postman(seed)
        self._secrets = secrets

    def add(self, payment: Payment) -> Payment:
        return self.payments.setdefault((payment.provider, payment.reference), payment)

    def known(self, provider: str, reference: str) -> Payment:
        """Return a payment for the caller that acts as the payer."""
        if (provider, reference) not in self.payments:
            raise HTTPException(404, "no such payment; GET /_money lists them by reference")
        return self.payments[provider, reference]

    def find(self, provider: str, reference: str) -> Payment:
        self.asked[provider] += 1
        try:
            payment = self.payments[provider, reference]
        except KeyError:
            raise HTTPException(404, "no such payment") from None
        payment.asked += 1
        return payment

    def settle(
        self, payment: Payment, standing: Standing, at: datetime | None, *, silently: bool
    ) -> None:
        payment.standing = standing
        if standing == "succeeded":
            payment.paid = at or datetime.now(UTC)
        if not silently:
            self.call_back(payment, standing)

    def charge_again(self, payment: Payment) -> None:
        """Charge the payment once more: the payer opens the page and pays again."""
        payment.again.append(datetime.now(UTC))
        body = {"event": "charge.completed", "data": flutterwave_charges(payment)[-1]}
        headers = {"verif-hash": self._secrets["flutterwave"]}
        self.postman.send(payment.provider, body, headers)

    def call_back(self, payment: Payment, standing: Standing, *, surely: bool = False) -> None:
        """Send the merchant a callback with this status, whether it is true or not."""
        reported = Payment(**{**vars(payment), "standing": standing})
        body, headers = _callback(reported, self._secrets)
        self.postman.send(
            payment.provider,
            body,
            headers,
            url=payment.more.get("callback_url"),
            method="PUT" if payment.provider == "mtn-momo" else "POST",
            surely=surely,
        )


def _callback(payment: Payment, secrets: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
    match payment.provider:
        case "fapshi":
            return fapshi(payment), {"x-wh-secret": secrets["fapshi"]}
        case "mtn-momo":
            return mtn(payment), {}
        case "orange-money":
            body = {"status": payment.status, "notif_token": payment.more["notif_token"]}
            return body | {"txnid": f"MP{payment.reference[:8]}"}, {}
        case _:
            body = {"event": "charge.completed", "data": flutterwave(payment)}
            return body, {"verif-hash": secrets["flutterwave"]}


def fapshi(payment: Payment) -> dict[str, Any]:
    return {
        "transId": payment.reference,
        "status": payment.status,
        "medium": "mobile money",
        "serviceName": "shop",
        "amount": payment.amount,
        "externalId": payment.external,
        "email": payment.more.get("email"),
        "payerName": None,
        "dateInitiated": _iso(payment.begun),
        **({"dateConfirmed": _iso(payment.paid)} if payment.paid else {}),
    }


def mtn(payment: Payment) -> dict[str, Any]:
    return {
        "financialTransactionId": f"{abs(hash(payment.reference)) % 10**10}",
        "externalId": payment.external,
        "amount": payment.amount,
        "currency": payment.currency,
        "payer": payment.more.get("payer"),
        "status": payment.status,
    }


def flutterwave(payment: Payment) -> dict[str, Any]:
    return {
        "id": abs(hash(payment.reference)) % 10**9,
        "tx_ref": payment.reference,
        "flw_ref": f"FLW{payment.reference[:8]}",
        "amount": payment.amount,
        "currency": payment.currency,
        "status": payment.status,
        "customer": payment.more.get("customer"),
        "created_at": _iso(payment.paid or payment.begun),
    }


def flutterwave_charges(payment: Payment) -> list[dict[str, Any]]:
    """Return every charge of the payment, the first one first."""
    first = flutterwave(payment)
    others = [
        {**first, "id": first["id"] + number, "flw_ref": f"{first['flw_ref']}-{number}"}
        | {"created_at": _iso(at), "status": "successful"}
        for number, at in enumerate(payment.again, 1)
    ]
    return [first, *others]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
