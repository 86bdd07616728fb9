"""How an order's buyer is reached: sealed, and opened only where it is needed."""

from __future__ import annotations

import json
from typing import Any

from common.security.encryption import SecretBox
from orders.models import Order
from orders.schemas import NewOrder

_CONTACT = ("email", "name", "phone")


def split(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an order asks for, which may lie in clear, and how its buyer is reached."""
    buyer = request["buyer"]
    wanted = request | {"buyer": {k: v for k, v in buyer.items() if k not in _CONTACT}}
    return wanted, {name: buyer.get(name) for name in _CONTACT}


class Buyers:
    def __init__(self, vault: SecretBox) -> None:
        self._vault = vault

    def columns(self, request: NewOrder) -> dict[str, Any]:
        """As an order's row keeps it."""
        wanted, contact = split(request.model_dump(mode="json"))
        return {"wanted": wanted, "contact": self._vault.encrypt(json.dumps(contact))}

    def request(self, order: Order) -> NewOrder:
        """The whole of it, perhaps of a version that knew more. Raises `Unreadable`."""
        contact: dict[str, Any] = json.loads(self._vault.decrypt(order.contact))
        whole = order.wanted | {"buyer": order.wanted["buyer"] | contact}
        return NewOrder.model_validate(whole, extra="ignore")
