"""The payout accounts file: allowed content, and error messages for invalid content."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import httpx
import pytest

from common.clients.accounts_file import AccountsInvalid
from common.db.database import Sessions
from common.errors import Invalid
from common.observability.redaction import Redactor
from payouts.providers.registry import Accounts, account_of

EXAMPLE = Path(__file__).resolve().parents[2] / "payout-accounts.example.toml"

FAPSHI = """
[[account]]
provider = "fapshi"
name = "payouts"
tenant = "shop"
[account.options]
api_user = "u"
api_key = "a-secret-key"
"""


def read(path: Path, redact: Redactor | None = None) -> Accounts:
    return Accounts(path, httpx.AsyncClient(), cast("Sessions", None), redact or Redactor())


def refused(tmp_path: Path, text: str) -> str:
    file = tmp_path / "accounts.toml"
    file.write_text(text)
    with pytest.raises(AccountsInvalid) as error:
        read(file)
    return str(error.value)


def test_the_example_is_good() -> None:
    accounts = {each.path: each for each in read(EXAMPLE)}
    paying = {"stripe/payouts", "dwolla/default", "fapshi/payouts"}
    assert accounts.keys() == paying | {"square/default"}
    assert {path for path, each in accounts.items() if each.pays} == paying


def test_limits_say_what_is_paid_and_what_needs_approval(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(FAPSHI + "limits = { XAF = 5000 }\napproval_threshold = { XAF = 1000 }\n")
    account = read(file).find("shop", "fapshi", "payouts")
    assert (account.limit("XAF"), account.limit("USD")) == (5000, 0)
    assert [account.needs_approval(amount, "XAF") for amount in (1000, 1001)] == [False, True]
    with pytest.raises(Invalid, match="PAYOUT_ACCOUNTS_FILE"):
        read(file).find("another", "fapshi", "payouts")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "limits: Field required"),
        ("limits = {}", "limits"),
        ("limits = { xaf = 1 }", "limits"),
        ("limits = { XAF = 1 }\napproval_threshold = { USD = 1 }", "approval_threshold has USD"),
        ("limits = { XAF = 1 }\nrate_per_second = 0", "rate_per_second"),
        ("limits = { XAF = 1 }\nspeed = 1", "speed"),
    ],
)
def test_what_is_wrong_is_said_without_secrets(tmp_path: Path, options: str, says: str) -> None:
    said = refused(tmp_path, FAPSHI + options)
    assert says in said
    assert "a-secret-key" not in said


def test_a_provider_that_does_not_pay_out_is_refused(tmp_path: Path) -> None:
    text = FAPSHI.replace("fapshi", "plaid") + "limits = { XAF = 1 }"
    assert "'plaid' is not a payout provider; these are: dwolla, fapshi" in refused(tmp_path, text)


def test_secrets_are_masked_from_then_on() -> None:
    redact = Redactor()
    file = EXAMPLE
    read(file, redact)
    assert redact("sk_live_... said so") == "[secret] said so"


@pytest.mark.parametrize(
    ("source", "account"),
    [("/webhook-gateway/stripe", "default"), ("/webhook-gateway/stripe/payouts", "payouts")],
)
def test_a_webhook_s_account_is_its_endpoint_s_name(source: str, account: str) -> None:
    assert account_of(source, "stripe") == account
