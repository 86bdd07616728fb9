"""The accounts file: allowed content, and error messages for invalid content."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from common.clients.accounts_file import AccountsInvalid
from common.errors import Invalid
from common.observability.redaction import Redactor
from subscription.providers.registry import CLIENTS, Accounts
from subscription.schemas.checkout import NewCheckout

EXAMPLE = Path(__file__).resolve().parents[2] / "accounts.example.toml"


def accounts(file: Path | None, redact: Redactor | None = None) -> Accounts:
    return Accounts(file, httpx.AsyncClient(), redact or Redactor())


def request(provider: str) -> NewCheckout:
    price = {"plan": {"plan_id": "price_1"}} if provider == "stripe" else {}
    money = {} if price else {"amount": 500, "currency": "XAF"}
    request = {"provider": provider, "customer": {"reference": "ama"}} | price | money
    return NewCheckout.model_validate(request)


@pytest.mark.parametrize("provider", CLIENTS)
def test_the_example_is_a_good_one_and_names_every_provider(provider: str) -> None:
    example = accounts(EXAMPLE)
    assert isinstance(example.find("shop", request(provider)), CLIENTS[provider])
    with pytest.raises(Invalid, match="'other' has no account"):
        example.find("other", request(provider))


@pytest.mark.parametrize("content", [None, "", "# none yet\n"])
def test_without_a_file_or_with_an_empty_one_there_is_no_account(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "accounts.toml"
    if content is not None:
        file.write_text(content)
    for path in (None, file):
        with pytest.raises(Invalid, match="that ACCOUNTS_FILE names"):
            accounts(path).find("shop", request("fapshi"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[accounts]", "must have [[account]] tables"),
        ("[account]\nprovider = 1", "account: Input should be a valid list"),
        ('[[account]]\nprovider = "plaid"\ntenant = "t"', "'plaid' is not a checkout provider"),
        (
            '[[account]]\nprovider = "fapshi"\ntenant = "t"\noptions = { api_key = "hunter22" }',
            "fapshi/default: options: api_user: Field required",
        ),
        (
            '[[account]]\nprovider = "fapshi"\ntenant = "t"\nsecrets = ["hunter22"]',
            "account.0.secrets: Extra inputs are not permitted",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_reason_and_no_value(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(text)
    with pytest.raises(AccountsInvalid, match=re.escape(reason)) as caught:
        accounts(file)
    assert "hunter22" not in str(caught.value)


def test_what_the_file_says_in_secret_is_masked_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(
        '[[account]]\nprovider = "fapshi"\ntenant = "t"\n'
        'options = { api_user = "me", api_key = "hunter22" }'
    )
    redact = Redactor()
    accounts(file, redact)
    assert redact("hunter22 me") == "[secret] me"
