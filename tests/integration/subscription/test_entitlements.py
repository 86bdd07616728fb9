"""Entitlements: correct within a second, and answered whichever dependency is down."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from conftest import MakePaybus
from devstack.servers.redis import PrivateRedis
from support.a_redis import a_redis
from support.organizations import end_subscription
from support.paybus import Paybus
from support.waiting import until

_PROCESSES = ["webhook-gateway", "subscription-worker", "subscription-api"]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with a_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus, redis: PrivateRedis) -> Iterator[Paybus]:
    with make_paybus(_PROCESSES, REDIS_URL=redis.url) as paybus:
        yield paybus


def ask(paybus: Paybus, customer: str, **more: Any) -> Any:
    return paybus.api("GET", "subscription", f"/v1/entitlements/{customer}", **more)


def entitled(paybus: Paybus, customer: str) -> bool | None:
    answer = ask(paybus, customer)
    return answer.json()["entitled"] if answer.is_success else None


def status_of(paybus: Paybus, number: str) -> str:
    path = f"/v1/subscriptions?provider_subscription_id=sub_{number}"
    items = paybus.api("GET", "subscription", path).json()["items"]
    return items[0]["status"] if items else ""


@contextmanager
def no_connections(paybus: Paybus, service: str) -> Iterator[None]:
    """Refuse new connections to the service's database and terminate the existing ones."""
    url, _, name = paybus.layout.databases[service].replace("+psycopg", "").rpartition("/")
    with psycopg.connect(f"{url}/postgres", autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            other.execute(query, (name,))
            yield
        finally:
            other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def test_it_is_right_within_a_second_of_the_event(paybus: Paybus) -> None:
    number = paybus.subscribe()
    customer = f"cus_{number}"
    until(lambda: entitled(paybus, customer), what="the customer is entitled")
    (plan,) = ask(paybus, customer).json()["plans"]
    assert plan["status"] == "active"
    assert plan["plan"]
    by_our_id = paybus.api(
        "GET", "subscription", f"/v1/customers?provider_customer_id={customer}"
    ).json()["items"][0]["id"]
    assert entitled(paybus, by_our_id) is True
    assert ask(paybus, customer, tenant="other").status_code == 404, "another tenant's key"
    end_subscription(paybus, number)
    until(lambda: status_of(paybus, number) == "cancelled", what="it is over")
    ended, before = time.monotonic(), entitled(paybus, customer)
    until(lambda: entitled(paybus, customer) is False, what="nothing is left to use", seconds=5)
    # Generous for a busy machine; the response itself states its maximum age.
    assert time.monotonic() - ended < 3 or before is False


def test_redis_stopped_and_started_during_load_fails_no_request(
    paybus: Paybus, redis: PrivateRedis
) -> None:
    customers = [f"cus_{paybus.subscribe()}" for _ in range(5)]
    for customer in customers:
        until(lambda: entitled(paybus, customer), what="the customer is entitled")
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            for customer in customers:
                statuses[ask(paybus, customer).status_code] += 1

    def more(than: int) -> None:
        until(lambda: statuses.total() > than, what="calls go on")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            more(statuses.total() + 100)
            redis.stop()
            more(statuses.total() + 100)
            redis.start()
        more(statuses.total() + 100)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    away = paybus.metric("subscription-api", "paybus_cache_requests_total", outcome="away")
    assert away > 0, "it was away"


def test_the_last_known_answer_is_told_while_the_database_is_away(paybus: Paybus) -> None:
    number = paybus.subscribe()
    customer = f"cus_{number}"
    until(lambda: entitled(paybus, customer), what="the customer is entitled")
    with no_connections(paybus, "subscription"):
        found = until(
            lambda: (said := ask(paybus, customer)).is_success and said.json()["stale"] and said,
            what="the last known is told",
        )
        assert found.json()["entitled"] is True
        assert ask(paybus, "cus_unknown").status_code == 503
    until(lambda: ask(paybus, customer).json().get("stale") is False, what="it is asked again")
