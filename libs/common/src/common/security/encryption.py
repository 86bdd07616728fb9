"""Encryption of stored secrets, with keys that can be changed while all processes run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from common.errors import Permanent
from common.settings import CommaSeparated, Settings, split_commas


class DecryptionFailed(Permanent):
    """None of the keys decrypts the value."""


def _fernet_key(key: SecretStr) -> SecretStr:
    try:
        Fernet(key.get_secret_value())
    except ValueError:
        raise ValueError(
            "must be keys of 32 bytes in URL-safe base64; the role `generate-key` prints one"
        ) from None
    return key


EncryptionKeys = Annotated[
    list[Annotated[SecretStr, AfterValidator(_fernet_key)]],
    CommaSeparated,
    BeforeValidator(split_commas),
    Field(min_length=1),
]


class EncryptionSettings(Settings):
    encryption_keys: EncryptionKeys = Field(
        description="the first key encrypts, all keys decrypt: append a new key, then move it to "
        "the front"
    )


class SecretBox:
    """Fernet encryption (AES-128-CBC with HMAC-SHA256), https://github.com/fernet/spec.

    The first key encrypts; all keys decrypt.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._fernet = MultiFernet([Fernet(key.get_secret_value()) for key in keys])
        self._first = Fernet(keys[0].get_secret_value())

    def encrypt(self, text: str) -> str:
        return self.seal_bytes(text.encode()).decode()

    def seal_bytes(self, content: bytes) -> bytes:
        return self._fernet.encrypt(content)

    def decrypt(self, sealed: str) -> str:
        """Return the plain text. Raise `DecryptionFailed`."""
        return self.open_bytes(sealed.encode()).decode()

    def open_bytes(self, sealed: bytes) -> bytes:
        """Return the plain bytes. Raise `DecryptionFailed`."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise DecryptionFailed(
                "no key in ENCRYPTION_KEYS decrypts it: was a key removed before `rotate-keys` ran?"
            ) from None

    def reencrypt(self, sealed: bytes) -> bytes | None:
        """Return it encrypted with the first key; None when it already is. Raise
        `DecryptionFailed`."""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return self.seal_bytes(self.open_bytes(sealed))
        return None


def new_key() -> str:
    return Fernet.generate_key().decode()
