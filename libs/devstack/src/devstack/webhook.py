"""Signed Stripe webhooks, in Stripe's format: for a first manual trial, and for tests."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx

from devstack.addresses import DevstackError
from devstack.endpoints import SECRETS
from devstack.processes.stack import PAYBUS


def signature(body: bytes, secret: str, timestamp: int | None = None) -> str:
    """Return a `Stripe-Signature` header, by Stripe's description rather than its SDK.

    https://docs.stripe.com/webhooks#verify-manually
    """
    stamp = int(time.time()) if timestamp is None else timestamp
    digest = hmac.new(secret.encode(), b"%d.%s" % (stamp, body), hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def subscription_created(number: str, *, status: str = "active") -> dict[str, Any]:
    """Return a `customer.subscription.created` event as of API version 2025-03-31.basil."""
    now = int(time.time())
    price = {
        "id": "price_starter",
        "object": "price",
        "currency": "eur",
        "unit_amount": 1500,
        "nickname": "Starter",
        "recurring": {"interval": "month", "interval_count": 1},
    }
    item = {"id": f"si_{number}", "price": price, "current_period_end": now + 30 * 86400}
    return {
        "id": f"evt_{number}",
        "object": "event",
        "api_version": "2025-03-31.basil",
        "type": "customer.subscription.created",
        "created": now,
        "livemode": False,
        "data": {
            "object": {
                "id": f"sub_{number}",
                "object": "subscription",
                "customer": f"cus_{number}",
                "status": status,
                "cancel_at_period_end": False,
                "metadata": {
                    "email": f"owner-{number}@example.com",
                    "organization": f"Organization {number}",
                },
                "items": {"object": "list", "data": [item]},
            }
        },
    }


def main(gateway: str | None = None) -> int:
    """Send a webhook to the system of `make run`, or of docker-compose.yml at the URL `gateway`;
    print the result, and how to see its effects."""
    addresses = _of_run() if gateway is None else _of_compose(gateway)
    number = uuid4().hex[:12]
    body = json.dumps(subscription_created(number)).encode()
    headers = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
    url = f"{addresses['webhook-gateway']}/webhooks/stripe"
    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=10)
    except httpx.InvalidURL as error:
        raise DevstackError(f"GATEWAY={gateway} is no URL: {error}") from error
    except httpx.TransportError as error:
        raise DevstackError(f"the gateway does not answer at {url}: is it running?") from error
    print(f"POST {url}: {answer.status_code} {answer.text}".rstrip())
    if not answer.is_success:
        return 1
    print(
        f'curl -H "Authorization: Bearer $(make -s token)" '
        f"'{addresses['subscription-api']}/v1/subscriptions?provider_subscription_id=sub_{number}'"
    )
    print(
        f'curl -H "Authorization: Bearer $(make -s token)" '
        f"'{addresses['provisioning-api']}/v1/integrations?status=provisioned&limit=1'"
    )
    return 0


def _of_run() -> Mapping[str, str]:
    place = PAYBUS / "run" / "addresses.json"
    if not place.exists():
        raise DevstackError(
            "nothing is running here: start it with `make run`, in another terminal; or name "
            "another gateway: make webhook GATEWAY=http://127.0.0.1:8000"
        )
    addresses: Mapping[str, str] = json.loads(place.read_text())
    return addresses


def _of_compose(gateway: str) -> Mapping[str, str]:
    """The ports are those that docker-compose.yml publishes on this machine."""
    return {
        "webhook-gateway": gateway.rstrip("/"),
        "subscription-api": "http://127.0.0.1:8001",
        "provisioning-api": "http://127.0.0.1:8002",
    }
