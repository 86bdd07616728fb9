"""Encryption of recipients' details."""

from __future__ import annotations

import json

from common.security.encryption import SecretBox
from payouts.providers import base
from payouts.providers.base import read_details
from payouts.providers.registry import CLIENTS


class RecipientDetailsCipher:
    def __init__(self, vault: SecretBox) -> None:
        self._vault = vault

    def seal(self, details: base.RecipientDetails) -> str:
        return self._vault.encrypt(details.model_dump_json())

    def open(self, provider: str, sealed: str) -> base.RecipientDetails:
        """Decrypt the details. Raises `DecryptionFailed` when no key decrypts them, `Invalid` when
        they are not valid details."""
        return read_details(
            CLIENTS[provider].details_model, json.loads(self._vault.decrypt(sealed))
        )
