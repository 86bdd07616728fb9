"""Cache of expendable values, in Redis for all replicas if it is configured, else in this process.

An unreachable Redis fails no caller: without it the cache misses.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import redis.asyncio as redis
from cachetools import TLRUCache
from prometheus_client import Counter
from pydantic import SecretStr

from common.observability.logging import get_logger
from common.resilience.redis import RedisAway, RedisCircuit, time_limits

log = get_logger(__name__)

_MOST_IN_MEMORY = 10_000
_POOL = 20

cache_requests = Counter(
    "paybus_cache_requests_total",
    "Cache lookups by outcome: hit, miss, away (the cache was unavailable).",
    ["cache", "outcome"],
)

ValueT = TypeVar("ValueT")


class Cache:
    """Cache of JSON values by tenant and key. `name` separates the caches.

    After three errors in a row Redis is not queried for five seconds; values that this process
    stored itself are found all the same.
    """

    def __init__(self, name: str, redis_url: SecretStr | None) -> None:
        self._name = name
        self._memory: TLRUCache[str, tuple[str, float]] = TLRUCache(
            _MOST_IN_MEMORY, ttu=lambda _, kept, now: now + kept[1], timer=monotonic
        )
        self._redis: redis.Redis | None = None
        if redis_url is not None:
            self._redis = redis.Redis.from_url(
                redis_url.get_secret_value(),
                max_connections=_POOL,
                **time_limits(redis_url.get_secret_value()),
            )
        self._circuit = RedisCircuit()

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    async def get(self, tenant: str, key: str) -> Any:
        """Return the value; None when it is not cached."""
        place = self._place(tenant, key)
        kept = self._memory.get(place)
        found: Any = kept[0] if kept else None
        if self._redis is not None:
            with suppress(RedisAway):
                found = await self._asked(partial(self._redis.get, place))
        cache_requests.labels(self._name, "miss" if found is None else "hit").inc()
        return None if found is None else json.loads(found)

    async def set(self, tenant: str, key: str, value: Any, *, seconds: float) -> None:
        place, text = self._place(tenant, key), json.dumps(value)
        self._memory[place] = text, seconds
        if self._redis is not None:
            with suppress(RedisAway):
                await self._asked(
                    partial(self._redis.set, place, text, px=max(1, round(seconds * 1000)))
                )

    def _place(self, tenant: str, key: str) -> str:
        # The length separates tenants and keys that would otherwise read the same.
        return f"paybus:{self._name}:{len(tenant)}:{tenant}:{key}"

    async def _asked(self, call: Callable[[], Awaitable[ValueT]]) -> ValueT:
        try:
            return await self._circuit.ask(call)
        except RedisAway as error:
            log.warning("cache_unavailable", cache=self._name, error=str(error))
            cache_requests.labels(self._name, "away").inc()
            raise
