"""One module per provider: how its calls are authenticated, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from common.contracts.event import Event
from common.errors import PaybusError


class VerificationFailed(PaybusError):
    """The call is not authentic. The message names the reason and shows nothing of the call."""


class Untranslatable(PaybusError):
    """The call is authentic but can't be understood."""


class Provider(Protocol):
    """`name` is the last part of the webhook's path."""

    name: str

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `VerificationFailed`. Header names are looked up in lower case."""

    def translate(self, body: bytes) -> Event[Any]:
        """The domain event of a verified call; the same call gives the same event id.

        Raises `Untranslatable`.
        """
