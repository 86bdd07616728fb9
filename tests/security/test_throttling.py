"""Requests are limited by caller and by address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from common.errors import TooMany
from common.http.throttling import Throttle
from common.settings import ThrottleSettings
from conftest import MakePaybus
from devstack.servers.redis import PrivateRedis
from support.a_redis import a_redis
from support.paybus import Paybus
from support.waiting import until

_STRATEGIES = ("fixed-window", "sliding-window", "token-bucket")
_MOST = 10


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with a_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus() as paybus:
        for name in ("subscription-api", "operations-api"):
            spec = paybus.layout.spec(
                name, CALLS_PER_MINUTE_PER_TOKEN=str(_MOST), SIGN_INS_PER_MINUTE=str(_MOST)
            )
            paybus.system.start_one(spec).wait_ready()
        yield paybus


def settings(strategy: str, url: str | None) -> ThrottleSettings:
    return ThrottleSettings.model_validate(
        {
            "calls_per_minute_per_token": _MOST,
            "rate_limit_strategy": strategy,
            "redis_url": SecretStr(url) if url is not None else None,
        }
    )


async def granted(throttle: Throttle, key: str) -> int:
    for number in range(_MOST * 3):
        try:
            await throttle.acquire("token", key)
        except TooMany:
            return number
    raise AssertionError("nothing is refused")


@pytest.mark.parametrize("strategy", _STRATEGIES)
async def test_replicas_share_a_limit_in_redis(redis: PrivateRedis, strategy: str) -> None:
    one, other = (Throttle(settings(strategy, redis.url)) for _ in range(2))
    key = uuid4().hex
    assert _MOST <= await granted(one, key) <= _MOST + 1  # time passes during the test
    assert await granted(other, key) <= 1
    assert await granted(other, uuid4().hex) >= _MOST, "somebody else is not concerned"


@pytest.mark.parametrize("strategy", _STRATEGIES)
async def test_without_redis_each_process_counts(strategy: str) -> None:
    throttle = Throttle(settings(strategy, None))
    assert _MOST <= await granted(throttle, uuid4().hex) <= _MOST + 1


async def test_a_redis_that_is_away_turns_nobody_away() -> None:
    throttle = Throttle(settings("token-bucket", "redis://127.0.0.1:9/0"))
    for _ in range(_MOST * 2):
        await throttle.acquire("token", "at least one weight")


@pytest.mark.parametrize(
    ("client", "forwarded", "expected"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # the client is not our proxy
        ("10.0.0.2", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.2", ["1.1.1.1, 198.51.100.1, 10.0.0.9"], "198.51.100.1"),
        ("10.0.0.2", ["1.1.1.1", "198.51.100.1", "10.0.0.9"], "198.51.100.1"),
        ("10.0.0.2", ["nonsense"], "nonsense"),
        ("2001:db8::1:2:3:4", [], "2001:db8::/64"),
        ("10.0.0.2", ["2001:db8:0:1::9"], "2001:db8:0:1::/64"),
        ("::ffff:198.51.100.1", [], "198.51.100.1"),
    ],
)
def test_behind_a_proxy_the_address_is_the_one_that_it_saw(
    client: str, forwarded: list[str], expected: str
) -> None:
    trusting = ThrottleSettings.model_validate({"trusted_proxies": ["10.0.0.0/8"]})
    assert Throttle(trusting).address(client, forwarded) == expected


def test_who_calls_too_often_is_told_when_to_come_again(paybus: Paybus) -> None:
    answers = [
        paybus.api("GET", "subscription", "/v1/plans", subject="eager") for _ in range(_MOST * 2)
    ]
    statuses = Counter(each.status_code for each in answers)
    assert set(statuses) == {200, 429}
    assert _MOST <= statuses[200] <= _MOST + 2
    refused = next(each for each in answers if each.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert paybus.api("GET", "subscription", "/v1/plans", subject="calm").status_code == 200
    until(
        lambda: paybus.metric("subscription-api", "paybus_api_throttled_total", kind="token"),
        what="it is counted",
    )


def test_signing_in_is_tried_a_few_times_a_minute(paybus: Paybus) -> None:
    url = f"{paybus.layout.url('operations-api')}/console/login"
    statuses = Counter(
        httpx.post(url, data={"token": "a.b.c"}).status_code for _ in range(_MOST * 2)
    )
    assert statuses[429] >= _MOST - 2
