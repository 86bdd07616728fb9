"""Organizations: created once, whatever the backend API does; failures are visible and retried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from conftest import MakePaybus
from devstack.webhook import subscription_created
from support.organizations import end_subscription, integration_of, organization_of, until_status
from support.paybus import Paybus
from support.waiting import until

_PROCESSES = [
    "webhook-gateway",
    "subscription-worker",
    "subscription-api",
    "provisioning-worker",
    "provisioning-api",
    "sandbox-backend",
]


@pytest.fixture
def paybus(whole_paybus: Paybus) -> Iterator[Paybus]:
    whole_paybus.backend(mode="well")
    yield whole_paybus
    whole_paybus.backend(mode="well")


def subscribe_again(paybus: Paybus, number: str) -> None:
    """Send a new subscription of the same customer."""
    again = subscription_created(uuid4().hex)
    again["data"]["object"]["customer"] = f"cus_{number}"
    again["created"] += 5
    assert paybus.send(again).status_code == 200


def test_a_subscription_gets_an_organization_and_its_admin(paybus: Paybus) -> None:
    number = paybus.subscribe()
    integration = until_status(paybus, number, "provisioned")
    (organization,) = organization_of(paybus, integration)
    assert organization["name"] == f"Organization {number}"
    assert organization["id"] == integration["organization_id"]
    (admin,) = paybus.books()["users"][organization["id"]]
    assert (admin["email"], admin["role"]) == (f"owner-{number}@example.com", "admin")


@pytest.mark.parametrize("how", ["customer.created", "invoice.finalized"])
def test_an_invoiced_customer_s_organization_does_not_wait_for_the_payment(
    paybus: Paybus, how: str
) -> None:
    """The subscription is active, and its invoice may be paid weeks later."""
    webhook = subscription_created(number := uuid4().hex[:12])
    webhook["data"]["object"]["metadata"] = {}
    assert paybus.send(webhook).status_code == 200
    until(lambda: integration_of(paybus, number), what="the integration waits for an address")
    contact = {"email": "buyer@example.com", "name": "Buyer GmbH"}
    reports: dict[str, dict[str, Any]] = {
        "customer.created": {"id": f"cus_{number}"} | contact,
        "invoice.finalized": {"id": f"in_{number}", "customer": f"cus_{number}"}
        | {f"customer_{name}": value for name, value in contact.items()},
    }
    report = webhook | {"id": f"evt_{how}_{number}", "type": how, "data": {"object": reports[how]}}
    assert paybus.send(report).status_code == 200
    integration = until_status(paybus, number, "provisioned")
    (organization,) = organization_of(paybus, integration)
    assert organization["name"] == "Buyer GmbH"
    changed = reports["customer.created"] | {"email": "new@example.com"}
    report = webhook | {"id": f"evt_u_{number}", "type": "customer.updated"}
    report |= {"created": webhook["created"] + 9, "data": {"object": changed}}
    assert paybus.send(report).status_code == 200
    path = f"/v1/customers?provider_customer_id=cus_{number}"
    until(
        lambda: (
            paybus.api("GET", "subscription", path).json()["items"][0]["email"] == "new@example.com"
        ),
        what="the customer's address is the new one",
    )


def test_five_attempts_then_failed_dead_lettered_and_told_with_the_whole_error(
    paybus: Paybus,
) -> None:
    paybus.backend(mode="fail")
    number = paybus.subscribe()
    integration = until_status(paybus, number, "failed")
    detail = paybus.api("GET", "provisioning", f"/v1/integrations/{integration['id']}").json()
    assert [attempt["outcome"] for attempt in detail["attempts"]] == ["failed"] * 5
    assert "the back end answered 503: fail on request" in detail["error"]
    assert "Traceback" in detail["error"]
    dead = [
        m
        for m in paybus.messages("provisioning.organizations.dead", remove=True)
        if json.loads(m["payload"])["subject"] == integration["id"]
    ]
    assert len(dead) == 1
    headers = dead[0]["headers"]
    assert headers["x-paybus-reason"] == "exhausted"
    history = json.loads(headers["x-paybus-history"])
    assert [entry["attempt"] for entry in history] == [1, 2, 3, 4, 5]
    assert "Traceback" in headers["x-paybus-stack"]
    assert "postgresql" not in headers["x-paybus-stack"]
    failed = [
        e
        for e in paybus.journal()
        if e["type"] == "organization.failed" and e["subject"] == integration["id"]
    ]
    assert len(failed) == 1
    assert "503" in failed[0]["data"]["error"]

    paybus.backend(mode="well")
    answer = paybus.api("POST", "provisioning", f"/v1/integrations/{integration['id']}/retry")
    assert answer.status_code == 202
    integration = until_status(paybus, number, "provisioned")
    assert integration["error"] is None


def test_while_nothing_is_sent_to_the_back_end_requests_wait(make_paybus: MakePaybus) -> None:
    """Six requests to a backend API that is down: the circuit opens, no attempts are used up."""
    settings = {"BACKEND_CIRCUIT_FAILURES": "3", "BACKEND_CIRCUIT_SECONDS": "1"}
    with make_paybus(_PROCESSES, **settings) as paybus:
        paybus.backend(mode="fail")
        numbers = [paybus.subscribe() for _ in range(6)]
        figures = (
            "SELECT count(*) FROM circuit_breakers WHERE name = 'backend' AND state = 'opened'"
        )
        until(lambda: paybus.sql("provisioning", figures)[0][0], what="the circuit opens")
        paybus.backend(mode="well")
        for number in numbers:
            until_status(paybus, number, "provisioned")
        told = "SELECT count(*) FROM attempts WHERE error LIKE '%%CircuitOpen%%'"
        assert paybus.sql("provisioning", told) == [(0,)], "what is not sent is no attempt"


def test_what_the_back_end_refuses_is_not_tried_again(paybus: Paybus) -> None:
    paybus.backend(mode="refuse")
    number = paybus.subscribe()
    integration = until_status(paybus, number, "failed")
    detail = paybus.api("GET", "provisioning", f"/v1/integrations/{integration['id']}").json()
    assert len(detail["attempts"]) == 1
    assert "422" in detail["error"]
    paybus.messages("provisioning.organizations.dead", remove=True)


def test_a_dead_letter_that_is_replayed_and_fails_again_is_failed_again(paybus: Paybus) -> None:
    paybus.backend(mode="refuse")
    number = paybus.subscribe()
    integration = until_status(paybus, number, "failed")

    def dead() -> list[str]:
        messages = paybus.messages("provisioning.organizations.dead", remove=True)
        return [m["payload"] for m in messages if integration["id"] in m["payload"]]

    (body,) = until(dead, what="its dead letter")
    paybus.publish("provisioning.organizations", body)
    until(dead, what="it is dead again")
    assert (integration_of(paybus, number) or {})["status"] == "failed"
    paybus.backend(mode="well")
    paybus.publish("provisioning.organizations", body)
    until_status(paybus, number, "provisioned")


def test_a_request_for_what_does_not_exist_is_dead_lettered_and_holds_nobody_up(
    paybus: Paybus,
) -> None:
    number = paybus.subscribe()
    until_status(paybus, number, "provisioned")
    (body,) = [
        json.dumps(e)
        for e in paybus.journal()
        if e["type"] == "organization.reconcile"
        and e["subject"] == (integration_of(paybus, number) or {})["id"]
    ]
    unknown = json.loads(body) | {"data": {"integration_id": "nobody"}}
    for _ in range(20):  # more than there are concurrency slots
        paybus.publish("provisioning.organizations", json.dumps(unknown))
    until_status(paybus, paybus.subscribe(), "provisioned")
    until(
        lambda: len(paybus.messages("provisioning.organizations.dead")) >= 20,
        what="the dead letters",
    )
    paybus.messages("provisioning.organizations.dead", remove=True)


def test_a_rate_limit_is_waited_out(paybus: Paybus) -> None:
    paybus.backend(mode="rate_limit")
    number = paybus.subscribe()
    until(
        lambda: (i := integration_of(paybus, number)) and "429" in (i["error"] or ""),
        what="the limit was hit",
    )
    paybus.backend(mode="well")
    until_status(paybus, number, "provisioned")


def test_retry_with_wait_answers_with_the_outcome(paybus: Paybus) -> None:
    paybus.backend(mode="refuse")
    number = paybus.subscribe()
    integration = until_status(paybus, number, "failed")
    path = f"/v1/integrations/{integration['id']}/retry?wait=true"
    paybus.backend(mode="fail")
    answer = paybus.api("POST", "provisioning", path)
    assert answer.status_code == 502
    assert "fail on request" in answer.json()["detail"]
    paybus.backend(mode="well")
    until_status(paybus, number, "provisioned")
    answer = paybus.api("POST", "provisioning", path)
    assert answer.status_code == 409
    assert "nothing to retry" in answer.json()["detail"]
    assert len(organization_of(paybus, integration)) == 1


def test_retry_with_wait_provisions_before_it_answers(paybus: Paybus) -> None:
    paybus.backend(mode="refuse")
    number = paybus.subscribe()
    integration = until_status(paybus, number, "failed")
    paybus.backend(mode="well")
    path = f"/v1/integrations/{integration['id']}/retry?wait=true"
    answer = paybus.api("POST", "provisioning", path)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "provisioned"
    assert len(organization_of(paybus, integration)) == 1


def test_retry_all_matching(paybus: Paybus) -> None:
    paybus.backend(mode="refuse")
    numbers = [paybus.subscribe() for _ in range(5)]
    for number in numbers:
        until_status(paybus, number, "failed")
    paybus.backend(mode="well")
    failed = paybus.api("GET", "provisioning", "/v1/integrations?status=failed").json()["items"]
    answer = paybus.api(
        "POST", "provisioning", "/v1/integrations/retry", json={"error": "no such text"}
    )
    assert answer.json() == {"requested": 0, "more": False}
    answer = paybus.api(
        "POST", "provisioning", "/v1/integrations/retry", json={"error": "refuse on request"}
    )
    assert answer.json()["requested"] == len(failed) >= 5
    for number in numbers:
        until_status(paybus, number, "provisioned")


def test_the_hourly_job_tries_failed_ones_again(paybus: Paybus) -> None:
    paybus.backend(mode="refuse")
    number = paybus.subscribe()
    until_status(paybus, number, "failed")
    paybus.backend(mode="well")
    answer = paybus.api("POST", "provisioning", "/v1/schedules/retry-failed/run")
    assert answer.status_code == 202
    until_status(paybus, number, "provisioned")


def test_cancelled_suspends_and_a_new_subscription_resumes(paybus: Paybus) -> None:
    number = paybus.subscribe()
    integration = until_status(paybus, number, "provisioned")
    end_subscription(paybus, number)
    until_status(paybus, number, "suspended")
    (organization,) = organization_of(paybus, integration)
    assert organization["status"] == "suspended"

    subscribe_again(paybus, number)
    until_status(paybus, number, "provisioned")
    (organization,) = organization_of(paybus, integration)
    assert organization["status"] == "active"


def test_a_creation_that_a_suspension_cut_short_has_its_admin_when_it_resumes(
    paybus: Paybus,
) -> None:
    paybus.backend(mode="fail_after")  # 500 after the work: there is an organization, but no admin
    number = paybus.subscribe()
    integration = until_status(paybus, number, "failed")
    (organization,) = organization_of(paybus, integration)
    assert paybus.books()["users"][organization["id"]] == []

    paybus.backend(mode="well")
    end_subscription(paybus, number)
    until_status(paybus, number, "suspended")
    subscribe_again(paybus, number)
    until_status(paybus, number, "provisioned")
    (organization,) = organization_of(paybus, integration)
    assert organization["status"] == "active"
    assert [user["role"] for user in paybus.books()["users"][organization["id"]]] == ["admin"]


def test_without_an_address_it_waits_and_goes_on_when_the_address_comes(paybus: Paybus) -> None:
    number = uuid4().hex[:10]
    webhook = subscription_created(number)
    webhook["data"]["object"]["metadata"] = {}
    assert paybus.send(webhook).status_code == 200
    until_status(paybus, number, "waiting")
    metric = ("provisioning-worker", "paybus_integrations_waiting")
    until(lambda: paybus.metric(*metric, status="waiting") == 1, what="an alert can tell of it")
    checkout = {
        "id": f"evt_cs_{number}",
        "object": "event",
        "type": "checkout.session.completed",
        "created": webhook["created"],
        "data": {
            "object": {
                "id": f"cs_{number}",
                "mode": "subscription",
                "payment_status": "paid",
                "customer": f"cus_{number}",
                "subscription": f"sub_{number}",
                "customer_details": {"email": "late@example.com", "name": "Late"},
            }
        },
    }
    assert paybus.send(checkout).status_code == 200
    integration = until_status(paybus, number, "provisioned")
    assert integration["email"] == "late@example.com"


def test_switched_off_it_parks_the_work_and_releases_it_when_switched_on(
    make_paybus: MakePaybus,
) -> None:
    names = ["webhook-gateway", "subscription-worker", "subscription-api", "sandbox-backend"]
    with make_paybus(names) as paybus:
        for name in ("provisioning-worker", "provisioning-api"):
            spec = paybus.layout.spec(name, BACKEND_INTEGRATION_ENABLED="false")
            paybus.system.start_one(spec).wait_ready()
        number = paybus.subscribe()
        until_status(paybus, number, "parked")
        assert paybus.books()["organizations"] == []
        for name in ("provisioning-worker", "provisioning-api"):
            paybus.system.processes[name].stop()
            paybus.start(name)
        paybus.api("POST", "provisioning", "/v1/schedules/release-parked/run")
        until_status(paybus, number, "provisioned")
