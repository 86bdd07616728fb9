"""Several tenants and accounts at one gateway, from a file that may change while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import MakePaybus
from devstack import endpoints
from devstack.webhook import signature, subscription_created
from support.paybus import Paybus
from support.waiting import until

BODY = json.dumps(subscription_created("tenants")).encode()


@pytest.fixture(scope="module")
def gateway(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["webhook-gateway"]) as paybus:
        yield paybus


@pytest.fixture
def paybus(gateway: Paybus) -> Paybus:
    """Restore the endpoints of a development machine, whatever the previous test wrote."""
    stand_ins = (gateway.layout.url(name) for name in ("sandbox-providers", "sandbox-stripe"))
    write(gateway, *endpoints.development(*stand_ins))
    until(lambda: gateway.call("fapshi", b"").status_code != 404, what="the file is read")
    until(lambda: status(gateway, "stripe", endpoints.SECRETS["stripe"]) == 200, what="all of it")
    return gateway


def write(paybus: Paybus, *found: dict[str, Any]) -> None:
    endpoints.write(paybus.layout.endpoints, found)


def stripe(name: str, tenant: str, *secrets: str) -> dict[str, Any]:
    found = {"provider": "stripe", "name": name, "tenant": tenant, "secrets": list(secrets)}
    return found | {"options": {"mode": "test"}}


def status(paybus: Paybus, path: str, secret: str) -> int:
    return paybus.call(path, BODY, {"Stripe-Signature": signature(BODY, secret)}).status_code


def test_a_provider_may_call_the_url_of_the_system_before(paybus: Paybus) -> None:
    old = "/api/payments/stripe/webhook/"
    write(paybus, stripe("eu", "shop", "whsec_eu") | {"paths": [old]})
    url = f"{paybus.layout.url('webhook-gateway')}{old}"

    def call(secret: str) -> int:
        headers = {"Stripe-Signature": signature(BODY, secret)}
        return paybus.http.post(url, content=BODY, headers=headers).status_code

    until(lambda: call("whsec_eu") == 200, what="the file is read")
    assert call("whsec_other") == 400
    assert paybus.http.get(url).status_code == 405
    (event,) = {each["id"]: each for each in paybus.journal() if each["tenant"] == "shop"}.values()
    assert event["source"] == "/webhook-gateway/stripe/eu"


def test_each_account_has_its_tenant_its_secret_and_its_own_event_ids(paybus: Paybus) -> None:
    write(paybus, stripe("eu", "shop", "whsec_eu"), stripe("us", "market", "whsec_us"))
    until(lambda: status(paybus, "stripe/eu", "whsec_eu") == 200, what="the file is read")
    assert status(paybus, "stripe/us", "whsec_us") == 200
    assert status(paybus, "stripe/eu", "whsec_us") == 400, "another tenant's secret"
    assert status(paybus, "stripe", "whsec_eu") == 404, "no endpoint is the default one"
    assert status(paybus, "stripe/asia", "whsec_eu") == 404
    events = [json.loads(each["payload"]) for each in paybus.messages("subscription.billing")]
    assert {(each["tenant"], each["source"]) for each in events if each["tenant"] != "default"} == {
        ("shop", "/webhook-gateway/stripe/eu"),
        ("market", "/webhook-gateway/stripe/us"),
    }


def test_a_secret_is_rotated_without_a_gap_and_without_a_restart(paybus: Paybus) -> None:
    path = "stripe"
    write(paybus, stripe("default", "shop", "whsec_old"))
    until(lambda: status(paybus, path, "whsec_old") == 200, what="the file is read")
    write(paybus, stripe("default", "shop", "whsec_new", "whsec_old"))
    until(lambda: status(paybus, path, "whsec_new") == 200, what="the new one is good")
    assert status(paybus, path, "whsec_old") == 200, "so is the old one"
    write(paybus, stripe("default", "shop", "whsec_new"))
    until(lambda: status(paybus, path, "whsec_old") == 400, what="the old one is not")
    assert status(paybus, path, "whsec_new") == 200


def test_a_broken_file_leaves_the_one_before_it_in_force_and_shows(paybus: Paybus) -> None:
    write(paybus, stripe("default", "shop", "whsec_good"))
    until(lambda: status(paybus, "stripe", "whsec_good") == 200, what="the file is read")
    paybus.layout.endpoints.write_text("[[endpoint]]\nprovider = 7\nsecrets = ['hunter22']")

    def fault() -> bool:
        return paybus.metric("webhook-gateway", "paybus_endpoints_config_invalid") == 1

    until(fault, what="the metric tells")
    assert status(paybus, "stripe", "whsec_good") == 200
    logs = paybus.log("webhook-gateway")
    assert "endpoint.0.provider: Input should be a valid string" in logs
    assert "hunter22" not in logs
    paybus.layout.endpoints.unlink()
    until(lambda: "can't be read" in paybus.log("webhook-gateway"), what="it is missed")
    assert status(paybus, "stripe", "whsec_good") == 200
    write(paybus, stripe("default", "shop", "whsec_next"))
    until(lambda: status(paybus, "stripe", "whsec_next") == 200, what="a good one is used again")
    assert not fault()


def test_mtn_may_put_or_post_and_others_only_post(paybus: Paybus) -> None:
    reference = "0c3e6f6e-6b52-4f3a-8f8e-0d7a7a7f2f9b"
    body = json.dumps({"externalId": reference, "status": "SUCCESSFUL"}).encode()
    for method in ("PUT", "POST"):
        assert paybus.call("mtn-momo", body, method=method).status_code == 200
    refused = paybus.call("mtn-momo", body, method="DELETE")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, PUT")
    assert paybus.call("fapshi", body, method="PUT").status_code == 405
    hint, again = (each for each in paybus.journal() if each["subject"].startswith("mtn-momo/"))
    for each in (hint, again):
        assert (each["trust"], each["data"]["reference"]) == ("none", reference)


@pytest.mark.parametrize("path", ["mtn-momo", "orange-money"])
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"externalId": "' + b"9" * 9000])
def test_nonsense_from_anybody_leaves_no_dead_letter(
    paybus: Paybus, path: str, body: bytes
) -> None:
    answer = paybus.call(path, body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert paybus.dead_letters() == {}


def test_the_token_of_orange_goes_nowhere(paybus: Paybus) -> None:
    token = "dd497bda3b250e536186fc0663f32f40"
    body = json.dumps({"status": "SUCCESS", "notif_token": token, "txnid": "MP1"}).encode()
    assert paybus.call("orange-money", body).status_code == 200
    (hint,) = (each for each in paybus.journal() if each["subject"].startswith("orange-money/"))
    assert token not in json.dumps(hint)
    assert token not in paybus.log("webhook-gateway")


def test_a_flood_is_answered_429_with_retry_after_and_others_are_not_held_up(
    paybus: Paybus,
) -> None:
    limited = {**stripe("default", "shop", "whsec_a"), "options": {"rate_limit": "5/hour"}}
    write(paybus, limited, stripe("other", "shop", "whsec_b"))
    until(lambda: status(paybus, "stripe/other", "whsec_b") == 200, what="the file is read")
    answers = [status(paybus, "stripe", "whsec_a") for _ in range(8)]
    assert answers == sorted(answers)
    assert set(answers) <= {200, 429}
    refused = paybus.call("stripe", BODY)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert refused.headers["content-type"] == "application/problem+json"
    assert status(paybus, "stripe/other", "whsec_b") == 200


def test_a_redis_that_is_away_limits_nothing(make_paybus: MakePaybus) -> None:
    away = "redis://:hunter22@127.0.0.1:1/0"
    with make_paybus(["webhook-gateway"], REDIS_URL=away) as paybus:
        limited = {**stripe("default", "shop", "whsec_a"), "options": {"rate_limit": "1/hour"}}
        write(paybus, limited)
        until(lambda: status(paybus, "stripe", "whsec_a") == 200, what="the file is read")
        assert {status(paybus, "stripe", "whsec_a") for _ in range(5)} == {200}
        log = paybus.log("webhook-gateway")
        assert "redis_unavailable_rate_limits_off" in log
        assert "hunter22" not in log


def test_health_says_what_came_last_and_what_was_refused_and_why(paybus: Paybus) -> None:
    write(paybus, stripe("default", "shop", "whsec_health"))
    until(lambda: status(paybus, "stripe", "whsec_health") == 200, what="the file is read")
    assert status(paybus, "stripe", "whsec_wrong") == 400
    base = paybus.layout.url("webhook-gateway")
    detailed = paybus.http.get(f"{base}/health/detailed").json()
    assert detailed["broker"] == {"connected": True}
    assert detailed["spool"] == {"used": False}
    assert detailed["endpoints_file"] == {"fault": None, "not_served": []}
    seen = detailed["endpoints"]["stripe/default"]
    assert (seen["provider"], seen["tenant"]) == ("stripe", "shop")
    assert seen["accepted"] >= 1
    assert seen["last_accepted"] is not None
    assert "does not match" in seen["last_reason"]
    simple = paybus.http.get(f"{base}/webhooks/health")
    assert (simple.status_code, simple.json()) == (200, {"status": "ok"})
