"""Promise 1: the gateway responds 2xx only after the broker's confirm; otherwise 503."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from conftest import MakePaybus
from devstack.processes.process import Process
from devstack.servers.rabbitmq import PrivateNode
from devstack.webhook import signature, subscription_created
from support.paybus import Paybus
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus, node: PrivateNode) -> Iterator[Paybus]:
    with make_paybus(["webhook-gateway"], rabbitmq_url=node.address.url) as paybus:
        yield paybus


def test_promise_1_broker_killed_503_within_3s_and_2xx_again_without_a_restart(
    node: PrivateNode, paybus: Paybus
) -> None:
    gateway = paybus.system.processes["webhook-gateway"]
    pid = gateway.pid
    assert paybus.send(subscription_created("before")).status_code == 200

    node.kill()
    for number in range(5):
        answer = paybus.send(subscription_created(f"down-{number}"))
        assert answer.status_code == 503
        assert answer.elapsed.total_seconds() < 3  # required; 1.5 times our timeout
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"]

    node.start()
    until(
        lambda: paybus.send(subscription_created("after")).status_code == 200,
        what="the gateway accepts again",
    )
    assert gateway.pid == pid


def test_promise_1_every_webhook_answered_2xx_is_in_the_queue_after_the_broker_was_killed(
    node: PrivateNode, paybus: Paybus
) -> None:
    accepted = _load_while(paybus, node.kill)
    node.start()
    queued = _queued_ids(node)
    assert len(accepted) > 20, "the load must have been under way when the broker died"
    assert accepted - queued == set(), "answered 2xx and lost"


def test_promise_1_a_gateway_killed_in_the_middle_has_published_all_it_answered(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus(["webhook-gateway"]) as paybus:
        gateway: Process = paybus.system.processes["webhook-gateway"]
        accepted = _load_while(paybus, gateway.kill)
        queued = {
            json.loads(each["payload"])["id"] for each in paybus.messages("subscription.billing")
        }
        assert len(accepted) > 20
        assert accepted - queued == set()


def _load_while(paybus: Paybus, disaster: object) -> set[str]:
    """Post from four threads, cause the disaster after 50 accepted, return the accepted ids."""
    accepted: set[str] = set()
    over = threading.Event()
    url = f"{paybus.layout.url('webhook-gateway')}/webhooks/stripe"

    def post() -> None:
        with httpx.Client(timeout=5) as http:
            while not over.is_set():
                webhook = subscription_created(uuid4().hex)
                body = json.dumps(webhook).encode()
                headers = {"Stripe-Signature": signature(body, "whsec_development_only")}
                try:
                    answer = http.post(url, content=body, headers=headers)
                except httpx.TransportError:
                    continue
                if answer.status_code == 200:
                    accepted.add(webhook["id"])

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(accepted) >= 50, what="50 webhooks accepted")
    assert callable(disaster)
    disaster()
    over.set()
    for thread in threads:
        thread.join()
    return accepted


def _queued_ids(node: PrivateNode) -> set[str]:
    """Return the ids in subscription.billing of the node's default virtual host."""
    url = f"{node.address.management_url}/api/queues/%2F/subscription.billing/get"
    request = {"count": 100_000, "ackmode": "ack_requeue_true", "encoding": "auto"}

    def ids() -> set[str]:
        answer = httpx.post(url, json=request, timeout=30)
        found = answer.json() if answer.is_success else []
        return {json.loads(each["payload"])["id"] for each in found}

    return until(ids, what="the queue can be read again")
