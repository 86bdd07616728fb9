"""What a checkout's request says of a person: sealed, and opened only where it is needed."""

from __future__ import annotations

import json
from typing import Any

from common.contracts.payments import Contact
from common.security.encryption import SecretBox
from subscription.models import Checkout
from subscription.schemas.checkout import NewCheckout, stored

_OF_CUSTOMER = ("email", "name", "phone")
_OF_REQUEST = ("description", "return_url")


def split(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request's terms, which may lie in clear, and what it says of the payer."""
    customer = request["customer"]
    terms = {name: value for name, value in request.items() if name not in _OF_REQUEST}
    terms["customer"] = {
        name: value for name, value in customer.items() if name not in _OF_CUSTOMER
    }
    payer = {name: customer.get(name) for name in _OF_CUSTOMER}
    return terms, payer | {name: request.get(name) for name in _OF_REQUEST}


class Payers:
    def __init__(self, vault: SecretBox) -> None:
        self._vault = vault

    def columns(self, request: NewCheckout) -> dict[str, Any]:
        """As a checkout's row keeps them."""
        terms, payer = split(request.model_dump(mode="json"))
        return {"terms": terms, "payer": self._vault.encrypt(json.dumps(payer))}

    def request(self, checkout: Checkout) -> NewCheckout:
        """The whole of it, as it was asked for. Raises `Unreadable`."""
        payer = self._opened(checkout)
        customer = checkout.terms["customer"] | {name: payer.get(name) for name in _OF_CUSTOMER}
        whole = checkout.terms | {name: payer.get(name) for name in _OF_REQUEST}
        return stored(whole | {"customer": customer})

    def contact(self, checkout: Checkout) -> Contact:
        """Raises `Unreadable`."""
        payer = self._opened(checkout)
        return Contact(email=payer.get("email"), name=payer.get("name"))

    def _opened(self, checkout: Checkout) -> dict[str, Any]:
        opened: dict[str, Any] = json.loads(self._vault.decrypt(checkout.payer))
        return opened
