"""Rate limits of calls to the bank's provider: in Redis, and without it in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from bank_sync.clients.rate_limiter import ProviderRateLimiter
from common.db import database
from common.db.database import Sessions
from common.errors import RateLimited
from conftest import MakePaybus
from devstack.servers.redis import PrivateRedis
from support.a_redis import a_redis
from support.waiting import until_async

_LIMIT = 10


@pytest.fixture(scope="module")
def database_url(make_paybus: MakePaybus) -> Iterator[str]:
    with make_paybus() as paybus:
        yield paybus.layout.databases["bank-sync"]


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engine = create_async_engine(database_url)
    yield database.sessions_of(engine)
    await engine.dispose()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    with a_redis(tmp_path) as redis:
        yield redis


async def granted(replicas: list[ProviderRateLimiter], name: str) -> int:
    """Return how many calls in a row are allowed, requested from the replicas in turn."""
    for number in range(100):
        try:
            await replicas[number % len(replicas)].acquire(name, _LIMIT)
        except RateLimited:
            return number
    raise AssertionError("nothing is refused")


async def test_replicas_share_one_limit_in_redis(sessions: Sessions, redis: PrivateRedis) -> None:
    replicas = [ProviderRateLimiter(sessions, redis.url) for _ in range(2)]
    assert await granted(replicas, "item-1/sync") == _LIMIT
    assert await granted(replicas, "item-2/sync") == _LIMIT


async def test_replicas_share_one_limit_without_redis(sessions: Sessions) -> None:
    """A fifth is granted immediately, the rest over the minute."""
    assert (
        await granted([ProviderRateLimiter(sessions, None) for _ in range(2)], "plain/sync")
        == _LIMIT // 5
    )


async def test_a_redis_that_is_away_lets_nobody_through_uncounted(
    sessions: Sessions, redis: PrivateRedis
) -> None:
    replicas = [ProviderRateLimiter(sessions, redis.url) for _ in range(2)]
    redis.stop()
    assert await granted(replicas, "away/sync") == _LIMIT // 5
    redis.start()

    names = (f"back-{number}/sync" for number in count())

    async def counts_again() -> bool:
        return await granted(replicas, next(names)) == _LIMIT

    await until_async(counts_again, what="Redis counts again")
