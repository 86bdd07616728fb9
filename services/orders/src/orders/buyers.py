"""Contact data of an order's buyer: encrypted, and decrypted only where it is needed."""

from __future__ import annotations

import json
from typing import Any

from common.security.encryption import SecretBox
from orders.models import Order
from orders.schemas import NewOrder

_CONTACT = ("email", "name", "phone")


def split(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an order's request into a part storable in plain text, and the buyer's contact."""
    buyer = request["buyer"]
    public = request | {"buyer": {k: v for k, v in buyer.items() if k not in _CONTACT}}
    return public, {name: buyer.get(name) for name in _CONTACT}


class Buyers:
    def __init__(self, vault: SecretBox) -> None:
        self._vault = vault

    def columns(self, request: NewOrder) -> dict[str, Any]:
        """Return the `request` and `contact` columns of an order's row; `contact` is encrypted."""
        public, contact = split(request.model_dump(mode="json"))
        return {"request": public, "contact": self._vault.encrypt(json.dumps(contact))}

    def request(self, order: Order) -> NewOrder:
        """Return the complete request, ignoring fields unknown to this version. Raise
        `DecryptionFailed`."""
        contact: dict[str, Any] = json.loads(self._vault.decrypt(order.contact))
        whole = order.request | {"buyer": order.request["buyer"] | contact}
        return NewOrder.model_validate(whole, extra="ignore")
