"""The guards of outbound calls: rate limits shared by all replicas, and the circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from common.db import database
from common.db.database import Sessions
from common.db.group_commit import GroupCommit
from common.errors import PaybusError, Permanent, ProviderRejected, ProviderTimeout, RateLimited
from common.resilience.call_guard import CallGuard, CircuitOpen
from common.resilience.rate_limiter import RateLimiter
from conftest import MakePaybus
from support.waiting import until_async


@pytest.fixture
async def sessions(make_paybus: MakePaybus) -> AsyncIterator[Sessions]:
    with make_paybus() as paybus:
        engine = create_async_engine(paybus.layout.databases["payouts"])
        yield database.sessions_of(engine)
        await engine.dispose()


async def test_two_replicas_share_one_limit(sessions: Sessions) -> None:
    """A burst of ten, then one every hundredth of a second, whichever replica requests it."""
    replicas = [RateLimiter("x", 100, 10, sessions) for _ in range(2)]

    async def ask(number: int) -> float:
        return await replicas[number % 2].acquire(most_seconds=60)

    waits = sorted(await asyncio.gather(*(ask(number) for number in range(40))))
    assert waits[:10] == [0.0] * 10
    assert 0 < waits[-1] <= 0.3  # thirty more, less the time that passed while they were granted


async def test_who_would_wait_too_long_is_refused_and_takes_nothing(sessions: Sessions) -> None:
    quota = RateLimiter("y", 1, 1, sessions)
    assert await quota.acquire(most_seconds=0.1) == 0
    for _ in range(3):
        with pytest.raises(RateLimited, match="1 a second is used up"):
            await quota.acquire(most_seconds=0.1)
    wait = await quota.acquire(most_seconds=60)
    assert 0 < wait <= 1
    several = await asyncio.gather(
        *(quota.acquire(most_seconds=2.5) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, RateLimited) for each in several) == 4  # one fits in 2.5 s


async def _fail(gate: CallGuard, error: Exception) -> None:
    async with gate.admit():
        with pytest.raises(type(error)):
            async with gate.call():
                raise error


async def test_silence_opens_the_circuit_and_refusals_do_not() -> None:
    heard: list[str] = []
    gate = CallGuard(
        "tenant/x", label="x", max_concurrency=5, quota=None, failures=3, open_seconds=0.05,
        on_change=heard.append,
    )  # fmt: skip
    for _ in range(5):
        await _fail(gate, ProviderRejected("no", 400))
        await _fail(gate, RateLimited("later", 1))
    assert heard == []
    for _ in range(3):
        await _fail(gate, ProviderTimeout("silence"))
    assert heard == ["opened"]
    with pytest.raises(CircuitOpen) as caught:
        async with gate.admit():
            pass
    assert caught.value.retry_after == 0.05

    async def tried() -> bool:
        try:
            async with gate.admit(), gate.call():
                return True
        except CircuitOpen:
            return False

    await until_async(tried, what="it is tried again")
    assert heard == ["opened", "half-opened", "closed"]


async def test_who_is_not_waited_for_any_longer_is_silent() -> None:
    heard: list[str] = []
    gate = CallGuard(
        "tenant/w", label="w", max_concurrency=5, quota=None, failures=3, on_change=heard.append
    )
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with gate.admit(), asyncio.timeout(0.01), gate.call():
                await asyncio.Event().wait()
    assert heard == ["opened"]


async def test_no_more_calls_at_once_than_places() -> None:
    gate = CallGuard("tenant/z", label="z", max_concurrency=2, quota=None, wait_seconds=0.05)
    async with gate.admit(), gate.admit():
        with pytest.raises(RateLimited, match="as many calls"):
            async with gate.admit():
                pass
    async with gate.admit():
        pass


async def test_a_group_commit_runs_those_alone_that_fail_together(sessions: Sessions) -> None:
    seen: list[int] = []

    async def run(_: Any, items: Any) -> list[int | PaybusError]:
        seen.append(len(items))
        if 3 in items:
            raise ZeroDivisionError
        return [Permanent("four") if item == 4 else item * 10 for item in items]

    commits: GroupCommit[int, int] = GroupCommit(sessions, run)
    await commits.start()
    done = await asyncio.gather(*(commits.do(n) for n in range(6)), return_exceptions=True)
    assert [each for each in done if isinstance(each, int)] == [0, 10, 20, 50]
    assert isinstance(done[3], ZeroDivisionError)
    assert isinstance(done[4], Permanent)
    assert seen == [6, 1, 1, 1, 1, 1, 1]
    await commits.stop()
    with pytest.raises(PaybusError, match="stopping"):
        await commits.do(1)
