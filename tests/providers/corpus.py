"""The corpus: calls that were written from each provider's published description, and what each
must become. A case has

- `type` and, where there are several of a type, `case`;
- `source`, the description, and `version`, the API version of the call;
- `webhook`, the body, and `options` of its endpoint;
- `trust`, the trust of the provider's usual authentication if it is another one;
- `becomes`: for each event its type as `event`, and fields of its payload;
- `effect`: what follows for those who look at Paybus; none for a call that is only recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.contracts.event import Trust

FOLDER = Path(__file__).with_name("corpus")
PROVIDERS = (
    "stripe", "square", "plaid", "dwolla", "flutterwave", "fapshi", "mtn-momo", "orange-money",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "stripe": {"mode": "test"},
    "square": {"notification_url": "https://pay.example.com/webhooks/square"},
    "plaid": {"client_id": "me", "secret": "api-secret"},
}
_TRUST: dict[str, Trust] = {"fapshi": "secret", "mtn-momo": "none", "orange-money": "none"}


@dataclass(frozen=True)
class Case:
    provider: str
    group: str
    said: dict[str, Any]

    def __str__(self) -> str:
        name = f"{self.provider} {self.said['type']}"
        return f"{name}: {self.said['case']}" if "case" in self.said else name

    @property
    def webhook(self) -> Any:
        return self.said["webhook"]

    @property
    def body(self) -> bytes:
        return json.dumps(self.webhook).encode()

    @property
    def options(self) -> dict[str, Any]:
        own: dict[str, Any] = self.said.get("options", {})
        return OPTIONS.get(self.provider, {}) | own

    @property
    def trust(self) -> Trust:
        trust: Trust = self.said.get("trust") or _TRUST.get(self.provider, "signature")
        return trust


@cache
def cases() -> tuple[Case, ...]:
    return tuple(_read())


def _read() -> Iterator[Case]:
    for provider in PROVIDERS:
        for file in sorted((FOLDER / provider).glob("*.json")):
            for said in json.loads(file.read_text()):
                yield Case(provider, file.stem, said)


def documented_types() -> dict[str, dict[str, Any]]:
    """Return for each provider the documented `types`, their `source`, and the `date` on which they
    were taken from it."""
    found: dict[str, dict[str, Any]] = json.loads(
        FOLDER.with_name("documented_types.json").read_text()
    )
    return found
