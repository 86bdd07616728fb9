"""Rate limits of endpoints: a flood gets 429 before anything is verified.

The `limits` library counts calls, per process, or in Redis for all processes together. While Redis
is unavailable, every call passes: refusing a genuine webhook would be worse than a flood.

Calls are counted in steps of a thousandth of the limit, each reserved in advance: otherwise
counting would take as long as verifying the signature and, with Redis, a round trip per call.
"""

from __future__ import annotations

from functools import partial

from limits import RateLimitItem, parse, storage, strategies
from limits.aio import storage as aio_storage
from limits.aio import strategies as aio_strategies

from common.errors import RateLimited
from common.observability.logging import get_logger
from common.resilience.redis import RedisAway, RedisCircuit, time_limits
from webhook_gateway import metrics

log = get_logger(__name__)

_NAMESPACE = "paybus-webhooks"
_STEPS = 1000


class WebhookRateLimiter:
    """`redis_url` is where counts are shared; without it, each process counts on its own."""

    def __init__(self, redis_url: str | None) -> None:
        self._shared: aio_strategies.FixedWindowRateLimiter | None = None
        if redis_url is not None:
            shared = aio_storage.RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                **time_limits(redis_url),
            )
            self._shared = aio_strategies.FixedWindowRateLimiter(shared)
        self._circuit = RedisCircuit()
        self._own = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
        self._items: dict[str, RateLimitItem] = {}
        self._paid: dict[tuple[str, str], int] = {}

    async def acquire(self, path: str, limit: str) -> None:
        """Count one call. Raises `RateLimited` when the limit is exceeded."""
        paid = self._paid.get((path, limit), 0)
        if paid:
            self._paid[path, limit] = paid - 1
            return
        item = self._items.get(limit)
        if item is None:
            item = self._items[limit] = parse(limit)
        step = max(1, item.amount // _STEPS)
        if not await self._hit(item, path, step):
            metrics.rate_limited.labels(path.partition("/")[0]).inc()
            raise RateLimited(f"more than {item}", float(item.get_expiry()))
        # Other calls may have reserved a step meanwhile.
        self._paid[path, limit] = self._paid.get((path, limit), 0) + step - 1

    async def _hit(self, item: RateLimitItem, path: str, cost: int) -> bool:
        if self._shared is None:
            return self._own.hit(item, _NAMESPACE, path, cost=cost)
        try:
            hit = partial(self._shared.hit, item, _NAMESPACE, path, cost=cost)
            return await self._circuit.ask(hit)
        except RedisAway as error:
            log.warning("redis_unavailable_rate_limits_off", error=str(error))
            return True
