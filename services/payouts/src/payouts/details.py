"""Where recipients' money goes, sealed."""

from __future__ import annotations

import json

from common.crypto import Vault
from payouts import clients
from payouts.accounts import CLIENTS
from payouts.clients import read_details


class Details:
    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def seal(self, details: clients.Details) -> str:
        return self._vault.seal(details.model_dump_json())

    def open(self, provider: str, sealed: str) -> clients.Details:
        """Raises `Unreadable`."""
        return read_details(CLIENTS[provider].details_model, json.loads(self._vault.open(sealed)))
