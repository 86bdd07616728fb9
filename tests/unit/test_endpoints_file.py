"""The endpoints file: allowed content, and error messages for invalid content."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.clients.accounts_file import AccountsInvalid
from common.observability.redaction import Redactor
from webhook_gateway.providers.endpoint_registry import EndpointRegistry
from webhook_gateway.providers.registry import PROVIDERS

EXAMPLE = Path(__file__).resolve().parents[2] / "endpoints.example.toml"


def routes(tmp_path: Path, text: str) -> EndpointRegistry:
    file = tmp_path / "endpoints.toml"
    file.write_text(text)
    return EndpointRegistry(file, Redactor())


def test_the_example_is_a_good_one_and_names_every_provider() -> None:
    served = EndpointRegistry(EXAMPLE, Redactor())
    assert served.find("/webhooks/stripe") is served.find("/webhooks/stripe/default")
    assert served.find("/webhooks/square/paris") is not None
    assert served.find("/webhooks/square") is None
    assert {each.name for each in served.all()} == set(PROVIDERS)


def test_an_endpoint_has_the_paths_of_the_system_before(tmp_path: Path) -> None:
    first = '[[endpoint]]\nprovider = "stripe"\ntenant = "t"\nsecrets = ["whsec_x"]\n'
    served = routes(tmp_path, f'{first}paths = ["/stripe/webhook/", "/webhooks/stripe-old"]')
    assert served.find("/stripe/webhook/") is served.find("/webhooks/stripe")
    assert served.find("/webhooks/stripe-old") is served.find("/webhooks/stripe")
    assert served.find("/stripe/webhook") is None, "as exactly as it is written"
    assert len(served.all()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '[[endpoint]]\nprovider = "stripe"\ntenant = "t"\nsecrets = ["s"]\npaths = ["old"]',
            "endpoint.0.paths.0: String should match pattern",
        ),
        (
            '[[endpoint]]\nprovider = "stripe"\ntenant = "t"\nsecrets = ["s"]\npaths = ["/readyz"]',
            "endpoint.0.paths.0: Value error, the gateway itself serves this path",
        ),
        (
            '[[endpoint]]\nprovider = "stripe"\ntenant = "t"\nsecrets = ["s"]\n'
            'paths = ["/webhooks/dwolla"]\n'
            '[[endpoint]]\nprovider = "dwolla"\ntenant = "t"\nsecrets = ["s"]',
            "dwolla/default: the path /webhooks/dwolla is that of stripe/default, too",
        ),
        ("", "must have [[endpoint]] tables and no other ones"),
        ("endpoint = 1", "endpoint: Input should be a valid list"),
        ('[[endpoint]]\nprovider = "stripe"', "endpoint.0.tenant: Field required"),
        ('[[endpoint]]\nprovider = "nobody"\ntenant = "t"', "nobody is not a provider"),
        (
            '[[endpoint]]\nprovider = "stripe"\ntenant = "t"\nsecrets = ["hunter22", ""]',
            "endpoint.0.secrets: Value error, a secret must not be empty",
        ),
        (
            '[[endpoint]]\nprovider = "stripe"\ntenant = "t"\nsecret = "hunter22"',
            "endpoint.0.secret: Extra inputs are not permitted",
        ),
        (
            '[[endpoint]]\nprovider = "square"\ntenant = "t"\nsecrets = ["hunter22"]',
            "square/default: options: notification_url: Field required",
        ),
        (
            '[[endpoint]]\nprovider = "plaid"\ntenant = "t"\n'
            'options = { client_id = 1, secret = "hunter22" }',
            "plaid/default: options: client_id: Input should be a valid string",
        ),
        (
            '[[endpoint]]\nprovider = "a/b"\ntenant = "t"',
            "endpoint.0.provider: String",
        ),
        (
            '[[endpoint]]\nprovider = "dwolla"\ntenant = "t"\n' * 2,
            "more than one endpoint is dwolla/default",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_reason_and_no_value(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(AccountsInvalid, match=re.escape(reason)) as caught:
        routes(tmp_path, text)
    assert "hunter22" not in str(caught.value)


def test_a_provider_without_a_secret_is_not_served(tmp_path: Path) -> None:
    served = routes(tmp_path, '[[endpoint]]\nprovider = "stripe"\ntenant = "t"')
    assert served.find("/webhooks/stripe") is None


def test_what_the_file_says_in_secret_is_masked_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.toml"
    file.write_text(
        '[[endpoint]]\nprovider = "fapshi"\ntenant = "t"\nsecrets = ["hunter22"]\n'
        '[[endpoint]]\nprovider = "plaid"\ntenant = "t"\n'
        'options = { client_id = "me", secret = "hunter33" }'
    )
    redact = Redactor()
    EndpointRegistry(file, redact)
    assert redact("hunter22 hunter33 me") == "[secret] [secret] me"
