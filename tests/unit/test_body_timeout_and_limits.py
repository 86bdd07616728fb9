"""Limits on a call before it is verified: the time for its body, and the number of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from common.errors import RateLimited
from webhook_gateway.ingress.body_timeout import BodyTimeout
from webhook_gateway.ingress.rate_limiter import WebhookRateLimiter


@pytest_asyncio.fixture
async def body_timeout() -> AsyncIterator[BodyTimeout]:
    body_timeout = BodyTimeout(0.05, look_seconds=0.01)
    running = asyncio.create_task(body_timeout.run())
    yield body_timeout
    body_timeout.stop()
    await running


async def never() -> None:
    await asyncio.Event().wait()


async def quick() -> str:
    return "done"


async def test_what_takes_too_long_is_ended_and_its_task_goes_on(body_timeout: BodyTimeout) -> None:
    with pytest.raises(TimeoutError):
        await body_timeout.wait(never())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await body_timeout.wait(quick()) == "done"


async def test_whoever_else_cancels_it_is_obeyed(body_timeout: BodyTimeout) -> None:
    task = asyncio.create_task(body_timeout.wait(never()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_is_its_own(body_timeout: BodyTimeout) -> None:
    async def fail() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await body_timeout.wait(fail())


async def test_all_that_are_late_are_ended_and_the_others_not(body_timeout: BodyTimeout) -> None:
    late = [asyncio.create_task(body_timeout.wait(never())) for _ in range(50)]
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert all(isinstance(each, TimeoutError) for each in outcomes)
    assert await asyncio.gather(*(body_timeout.wait(quick()) for _ in range(50))) == ["done"] * 50


async def taken(limiter: WebhookRateLimiter, limit: str) -> int:
    for count in range(100_000):
        try:
            await limiter.acquire("stripe/default", limit)
        except RateLimited:
            return count
    raise AssertionError("nothing was limited")


async def test_a_small_limit_is_counted_call_by_call() -> None:
    assert await taken(WebhookRateLimiter(None), "5/hour") == 5


async def test_a_large_limit_is_counted_in_steps() -> None:
    assert await taken(WebhookRateLimiter(None), "25000/hour") == 25000


async def test_each_endpoint_has_a_limit_of_its_own() -> None:
    limiter = WebhookRateLimiter(None)
    assert await taken(limiter, "5/hour") == 5
    await limiter.acquire("stripe/other", "5/hour")


async def test_what_was_paid_for_under_another_limit_does_not_count() -> None:
    limiter = WebhookRateLimiter(None)
    await limiter.acquire("stripe/default", "600000/minute")
    assert await taken(limiter, "5/hour") == 5
