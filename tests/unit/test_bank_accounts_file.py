"""The bank accounts file: the example is valid, and errors name their place."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bank_sync.clients.rate_limiter import ProviderRateLimiter
from bank_sync.clients.registry import Clients
from common.clients.accounts_file import AccountsInvalid
from common.errors import Invalid
from common.observability.redaction import Redactor

EXAMPLE = Path(__file__).resolve().parents[2] / "bank-accounts.example.toml"


def read(path: Path) -> Clients:
    redact = Redactor()
    counter = cast("ProviderRateLimiter", None)  # not called
    return Clients(path, counter, redact, timeout=1, closing=lambda close: close())


def test_the_example_is_right() -> None:
    client = read(EXAMPLE).find("finance", "default")
    assert str(client.options.webhook).endswith("/webhooks/plaid")


def test_another_tenant_s_client_is_none() -> None:
    with pytest.raises(Invalid, match="BANK_ACCOUNTS_FILE"):
        read(EXAMPLE).find("other", "default")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('provider = "plaid"', 'provider = "yodlee"', "is not a provider of bank data"),
        ('secret = "..."', 'password = "hunter2"', "secret: Field required"),
        ("max_concurrency = 16", "max_concurrency = 0", "max_concurrency"),
        ("[[client]]", "[[account]]", r"\[\[client\]\]"),
    ],
)
def test_what_is_wrong_is_told_by_place(tmp_path: Path, before: str, after: str, says: str) -> None:
    path = tmp_path / "banks.toml"
    path.write_text(EXAMPLE.read_text().replace(before, after))
    with pytest.raises(AccountsInvalid, match=says) as caught:
        read(path)
    assert "hunter2" not in str(caught.value)
