"""Any dead letter can be parsed, and equal causes form one group."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from common.contracts.topology import WEBHOOKS
from common.messaging import dead_letter
from common.observability.redaction import Redactor
from operations.dead_letters.masking import masked
from operations.dead_letters.parser import parse
from operations.domain import fault_of

_NOW = datetime(2026, 11, 22, tzinfo=UTC)
_NAMES = st.sampled_from(
    [
        dead_letter.ATTEMPT,
        dead_letter.HISTORY,
        dead_letter.ERROR,
        dead_letter.STACK,
        dead_letter.REASON,
        dead_letter.DEAD_SINCE,
        "x-death",
        "x-paybus-replay",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_STACK = """Traceback (most recent call last):
  File "{root}/src/provisioning/provisioner.py", line {line}, in bring_up_to_date
  File "{root}/lib/python3.11/site-packages/httpx/_client.py", line 99, in send
provisioning.clients.backend.BackendFailed: {error}
"""


@given(
    st.binary(max_size=300) | st.text(max_size=300).map(str.encode),
    st.dictionaries(_NAMES, _VALUES),
)
@example(b"\x00\xff", {})
@example(b"[" * 5000, {"x-death": [{"reason": b"delivery_limit", "time": _NOW}]})
@example(b'{"id": "\\ud800", "source": "x", "type": "t", "time": "never"}', {})
def test_whatever_dies_is_read(body: bytes, headers: dict[str, Any]) -> None:
    letter = parse("q", body, headers, _NOW, Redactor())
    assert letter.body == body
    for text in (letter.text, letter.error, letter.stack, letter.reason, letter.type):
        assert "\0" not in text
        text.encode()
    assert letter.dead_lettered_at.tzinfo is not None
    assert parse("q", body, headers, _NOW, Redactor()).id == letter.id


def test_what_the_broker_gave_up_says_so() -> None:
    letter = parse(
        "q", b"x", {"x-death": [{"reason": b"delivery_limit", "time": _NOW}]}, _NOW, Redactor()
    )
    assert (letter.reason, letter.dead_lettered_at) == ("delivery_limit", _NOW)
    assert "by the broker" in letter.error


def test_a_webhook_that_was_not_understood_does_not_say_whose_it_is() -> None:
    body = b'{"id": "1", "type": "t", "source": "x", "tenant": "other", "subject": "s"}'
    headers = {dead_letter.ENDPOINT: "stripe/default"}
    letter = parse(WEBHOOKS.name, body, headers, _NOW, Redactor())
    assert (letter.tenant, letter.subject) == (None, None)
    assert (letter.source, letter.event_id, letter.type) == ("stripe/default", "1", "t")
    assert parse("q", body, headers, _NOW, Redactor()).tenant == "other"


def stack(**values: Any) -> str:
    return _STACK.format(**{"root": "/app", "line": 7, "error": "x"} | values)


def test_equal_causes_are_one_group() -> None:
    first = "BackendFailed: create: 503 for 'Ama Owusu' <ama@example.com>, request 8c1f0a9b77"
    other = "BackendFailed: create: 502 for 'Kofi' <kofi@example.com>, request 11aa22bb33cc"
    one = fault_of(first, stack(error=first))
    two = fault_of(other, stack(root="/usr/lib/paybus", line=88, error=other))
    assert one == two
    assert one.error_class == "BackendFailed"
    for word in ("503", "Ama", "example.com", "8c1f0a9b77"):
        assert word not in one.summary


def test_other_causes_are_other_groups() -> None:
    error = "BackendFailed: create: refused"
    there = fault_of(error, stack()).fingerprint
    assert fault_of("BackendFailed: suspend: refused", stack()).fingerprint != there
    elsewhere = stack().replace("bring_up_to_date", "give_up")
    assert fault_of(error, elsewhere).fingerprint != there


def test_payloads_are_shown_without_what_is_private() -> None:
    body = (
        b'{"data": {"email": "a@b.co", "first_name": "Ama", "amount": 5, "account_number": "123",'
        b' "note": "call a@b.co", "nested": [{"access_token": "t"}], "account_id": "acc_1",'
        b' "url": "amqp://u:secret99@h/"}}'
    )
    shown = masked(body, Redactor())["data"]
    assert (shown["amount"], shown["account_id"]) == (5, "acc_1")
    assert shown["note"] == "call [secret]"
    for private in ("a@b.co", "Ama", "123", "secret99"):
        assert private not in str(shown)
    assert shown["nested"] == [{"access_token": "[masked]"}]


def test_of_many_values_the_first_are_shown_and_how_many_there_are() -> None:
    shown = masked(b'{"all": [' + b"0," * 500_000 + b"0]}", Redactor())
    assert len(shown["all"]) < 6_000
    assert shown["all"][-1] == "[and more]: 500001 in all"


def test_of_long_texts_the_first_are_shown_and_how_many_there_are() -> None:
    texts = b",".join(b'"%s"' % (b"x" * 20_000) for _ in range(50))
    shown = masked(b'{"all": [' + texts + b"]}", Redactor())
    assert 10 < len(shown["all"]) < 15
    assert shown["all"][-1] == "[and more]: 50 in all"
