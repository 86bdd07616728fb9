"""Helpers of the provisioning tests."""

from __future__ import annotations

from typing import Any

from devstack.webhook import subscription_created
from support.paybus import Paybus
from support.waiting import until


def integration_of(paybus: Paybus, number: str) -> dict[str, Any] | None:
    """Return the integration, as the API displays it, of the customer with this id suffix."""
    customers = paybus.api(
        "GET", "subscription", f"/v1/customers?provider_customer_id=cus_{number}"
    ).json()["items"]
    if not customers:
        return None
    path = f"/v1/integrations?customer_id={customers[0]['id']}"
    items = paybus.api("GET", "provisioning", path).json()["items"]
    return items[0] if items else None


def until_status(paybus: Paybus, number: str, status: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        integration = integration_of(paybus, number)
        return integration if integration and integration["status"] == status else None

    found = until(reached, what=f"the integration is {status}")
    assert found is not None
    return found


def break_provisioning(paybus: Paybus, count: int) -> list[str]:
    """Create `count` organizations that the backend API refuses; return their id suffixes."""
    paybus.backend(mode="fail")
    numbers = [paybus.subscribe() for _ in range(count)]
    for number in numbers:
        until_status(paybus, number, "failed")
    return numbers


def organization_of(paybus: Paybus, integration: dict[str, Any]) -> list[dict[str, Any]]:
    return [o for o in paybus.books()["organizations"] if o["reference"] == integration["id"]]


def end_subscription(paybus: Paybus, number: str) -> None:
    ended = subscription_created(number)
    ended |= {"id": f"evt_end_{number}", "type": "customer.subscription.deleted"}
    ended["created"] += 1
    assert paybus.send(ended).status_code == 200
