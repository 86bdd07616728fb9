"""Plaid's tokens: fetched keys, key rotation, and invalid tokens."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from conftest import MakePaybus
from support.paybus import Paybus

BODY = json.dumps(
    {
        "webhook_type": "TRANSACTIONS",
        "webhook_code": "SYNC_UPDATES_AVAILABLE",
        "item_id": "wz666MBjYWTp2PDzzggYhM6oWWmBb",
        "initial_update_complete": True,
        "historical_update_complete": False,
        "environment": "production",
    }
)
HEADER = "Plaid-Verification"


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["sandbox-providers", "webhook-gateway"]) as paybus:
        yield paybus


def plaid(paybus: Paybus, path: str, **body: Any) -> Any:
    url = f"{paybus.layout.url('sandbox-providers')}/plaid/{path}"
    return paybus.http.post(url, json=body).raise_for_status().json()


def token(paybus: Paybus, body: str = BODY, **changes: Any) -> str:
    signed: dict[str, str] = plaid(paybus, "_sign", body=body, **changes)
    return signed[HEADER]


def send(paybus: Paybus, value: str, body: str = BODY) -> int:
    return paybus.call("plaid", body.encode(), {HEADER: value}).status_code


def asked(paybus: Paybus) -> int:
    url = f"{paybus.layout.url('sandbox-providers')}/plaid/_asked"
    count: int = paybus.http.get(url).json()["count"]
    return count


def items(paybus: Paybus) -> list[dict[str, Any]]:
    return [each for each in paybus.journal() if each["type"].startswith("provider_bank_item.")]


def test_a_genuine_call_is_news_of_an_item_and_its_key_is_asked_for_once(paybus: Paybus) -> None:
    before = asked(paybus)
    value = token(paybus)
    assert [send(paybus, value), send(paybus, value), send(paybus, token(paybus))] == [200] * 3
    assert asked(paybus) == before + 1
    first, again, *_ = found = items(paybus)
    assert first["type"] == "provider_bank_item.updated"
    assert first["data"]["initial_update_complete"] is True
    assert first["data"]["historical_update_complete"] is False
    assert first["id"] == again["id"], "the same call"
    # The same body at another time is a new event, because it announces something else.
    assert send(paybus, token(paybus, claims={"iat": int(time.time()) - 60})) == 200
    assert len({each["id"] for each in items(paybus)}) > len({each["id"] for each in found}) - 1


def test_every_changed_byte_of_body_and_token_is_noticed(paybus: Paybus) -> None:
    value = token(paybus)
    for position in range(0, len(BODY), 7):
        changed = BODY[:position] + chr(ord(BODY[position]) ^ 1) + BODY[position + 1 :]
        assert send(paybus, value, changed) == 400
    for position in range(0, len(value) - 1, 7):
        # The last character of base64 may have unused bits.
        letter = "A" if value[position] != "A" else "B"
        assert send(paybus, value[:position] + letter + value[position + 1 :]) in {400, 503}


def test_tokens_that_are_not_quite_genuine(paybus: Paybus) -> None:
    now = int(time.time())
    unsigned = f"{_part({'alg': 'none', 'kid': 'x'})}.{_part({'iat': now})}."
    confused = jwt.encode({"iat": now}, "k" * 32, algorithm="HS256", headers={"kid": "x"})
    for value in (
        "",
        "x",
        "..",
        unsigned,
        confused,
        token(paybus, headers={"alg": "HS256"}),
        token(paybus, headers={"alg": "none"}),
        token(paybus, headers={"kid": None}),
        token(paybus, headers={"kid": "k" * 65}),
        token(paybus, claims={"iat": now - 301}),
        token(paybus, claims={"iat": now + 330}),
        token(paybus, claims={"iat": "soon"}),
        token(paybus, claims={"iat": None}),
        token(paybus, claims={"request_body_sha256": None}),
        token(paybus, claims={"request_body_sha256": "0" * 64}),
        token(paybus, body=BODY + " "),
    ):
        assert send(paybus, value) == 400, value
    assert paybus.call("plaid", BODY.encode()).status_code == 400
    twice = [(HEADER, token(paybus))] * 2
    assert paybus.call("plaid", BODY.encode(), twice).status_code == 400


def test_after_a_rotation_the_new_key_is_good_and_unknown_ones_are_refused(paybus: Paybus) -> None:
    plaid(paybus, "_rotate")
    assert send(paybus, token(paybus)) == 200
    assert send(paybus, token(paybus, headers={"kid": "nobody-s"})) == 400


def test_an_expired_key_is_refused(make_paybus: MakePaybus) -> None:
    with make_paybus(["sandbox-providers", "webhook-gateway"]) as paybus:
        old = token(paybus)
        plaid(paybus, "_rotate")
        assert send(paybus, old) == 400, "it expired before it was first met"


def test_invented_keys_cost_a_bounded_number_of_questions(make_paybus: MakePaybus) -> None:
    with make_paybus(["sandbox-providers", "webhook-gateway"]) as paybus:
        answers = [send(paybus, token(paybus, headers={"kid": f"k{n}"})) for n in range(100)]
        assert set(answers) == {400, 503}
        assert asked(paybus) == 30


def test_while_plaid_is_away_its_calls_are_sent_again(make_paybus: MakePaybus) -> None:
    with make_paybus(["sandbox-providers", "webhook-gateway"]) as paybus:
        value = token(paybus)
        paybus.system.processes["sandbox-providers"].stop()
        assert send(paybus, value) == 503


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
