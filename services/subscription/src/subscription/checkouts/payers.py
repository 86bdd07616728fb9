"""Personal data in checkout requests: encrypted, and decrypted only where it is needed."""

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
    """Split a request into terms, which may be stored in plain text, and the payer's data."""
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
        """Return the `terms` and `payer` columns of a checkout's row; `payer` is encrypted."""
        terms, payer = split(request.model_dump(mode="json"))
        return {"terms": terms, "payer": self._vault.encrypt(json.dumps(payer))}

    def request(self, checkout: Checkout) -> NewCheckout:
        """Return the complete request as the caller sent it. Raise `DecryptionFailed`."""
        payer = self._opened(checkout)
        customer = checkout.terms["customer"] | {name: payer.get(name) for name in _OF_CUSTOMER}
        whole = checkout.terms | {name: payer.get(name) for name in _OF_REQUEST}
        return stored(whole | {"customer": customer})

    def contact(self, checkout: Checkout) -> Contact:
        """Return the payer's contact. Raise `DecryptionFailed`."""
        payer = self._opened(checkout)
        return Contact(email=payer.get("email"), name=payer.get("name"))

    def _opened(self, checkout: Checkout) -> dict[str, Any]:
        opened: dict[str, Any] = json.loads(self._vault.decrypt(checkout.payer))
        return opened
