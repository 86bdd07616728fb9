"""Secrets and personal data are recognized anywhere in a text, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.observability.redaction import Redactor
from security.canaries import CANARIES, SECRET_PART

# Repetitions at which a pattern could start matching again and again.
_HOSTILE = (
    *(
        "a.a.",
        "4",
        "4242 ",
        "4242-",
        "AB12 ",
        "DE12 ",
        "AB12345678901234",
        "eyJaaaaaaaa-",
        "://a:b",
    ),
    *(
        "a@",
        "a@b.",
        "+1 ",
        "+1111111",
        "password=",
        'token="',
        "secret='a",
        r"pwd=\"a",
        "phone=1",
        "Bearer ",
        "Bearer\t ",
        "a%4",
        "%40",
        "A1",
    ),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "link-sandbox-",
        "sk_live_",
        "ghp_",
        "EAAA",
        "xoxb-",
        "[{",
        " ",
    ),
)
_SMALL, _TIMES = 8_000, 16


def test_a_row_that_the_database_quotes_is_masked() -> None:
    said = (
        'null value in column "tenant"\nDETAIL:  Failing row contains (1, Ama Owusu, null).\n[SQL'
    )
    masked = Redactor()(said)
    assert "Ama" not in masked
    assert masked.startswith('null value in column "tenant"\nDETAIL:  Failing row contains (')
    assert masked.endswith("\n[SQL")


@pytest.mark.parametrize("kind", CANARIES)
@pytest.mark.parametrize(
    "around",
    ["{}", "it says {} and more", '{{"a": "{}"}}', "x={}&y=1", "({})", "at {}, twice {}", "\n{}\n"],
)
def test_each_kind_is_masked(kind: str, around: str) -> None:
    text = around.replace("{}", CANARIES[kind]).replace("{{", "{").replace("}}", "}")
    assert SECRET_PART.get(kind, CANARIES[kind]) not in Redactor()(text)


@pytest.mark.parametrize(
    "text",
    [
        "evt_1NG8Du2eZvKYlo2CUI79vXWy",
        "2026-11-29T08:00:00.123456+00:00",
        "1764400000000",
        "42424242-4242-4242-4242-424242424242",
        "subscription.billing: the token is not valid: Signature has expired",
        "https://docs.stripe.com/api/refunds/create?a=b@c",
        "order 12345678 of 2026-11-29, 5000 XAF",
        "tr_1234567890123456789012",
        'unexpected token: "<"',
        "customer.phone: Field required",
    ],
)
def test_what_is_neither_stays(text: str) -> None:
    assert Redactor()(text) == text


@given(st.text(max_size=200), st.sampled_from(sorted(CANARIES)), st.text(max_size=200))
def test_what_stands_apart_is_masked_whatever_is_around(before: str, kind: str, after: str) -> None:
    canary = SECRET_PART.get(kind, CANARIES[kind])
    text = f"{before}\n{CANARIES[kind]}\n{after}"
    if canary in before + after:
        return
    assert canary not in Redactor()(text)


@pytest.mark.parametrize("part", _HOSTILE)
def test_the_time_it_takes_grows_with_the_length_and_nothing_else(part: str) -> None:
    """Sixteen times the length takes about sixteen times as long, not 256 times."""

    def seconds(length: int) -> float:
        text = part * (length // len(part))
        return min(_took(text) for _ in range(3))

    small = max(seconds(_SMALL), 1e-5)
    assert seconds(_SMALL * _TIMES) / small < _TIMES * 5


def _took(text: str) -> float:
    redact = Redactor(["a secret of ours"])
    started = time.process_time()
    redact(text)
    return time.process_time() - started
