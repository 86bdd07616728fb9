"""How many calls an endpoint takes: a flood is answered 429 before anything is verified.

Counted by the `limits` library, in this process, or in Redis for all of them together. A Redis that
is away lets everything pass: a webhook turned away for its sake would be worse than a flood.
"""

from __future__ import annotations

from limits import RateLimitItem, parse, storage, strategies
from limits.aio import storage as aio_storage
from limits.aio import strategies as aio_strategies
from limits.errors import StorageError

from common.errors import RateLimited
from common.logs import get_logger
from common.messaging.connection import describe
from webhook_gateway import metrics

log = get_logger(__name__)

_NAMESPACE = "paybus-webhooks"


class Limiter:
    """`redis_url` is where counts are shared; without, each process counts for itself."""

    def __init__(self, redis_url: str | None) -> None:
        self._shared: aio_strategies.FixedWindowRateLimiter | None = None
        if redis_url is not None:
            shared = aio_storage.RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                wrap_exceptions=True,
                socket_timeout=0.2,
                socket_connect_timeout=0.2,
            )
            self._shared = aio_strategies.FixedWindowRateLimiter(shared)
        self._own = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
        self._items: dict[str, RateLimitItem] = {}

    async def take(self, path: str, limit: str) -> None:
        """Count one call. Raises `RateLimited` when there were too many."""
        item = self._items.get(limit)
        if item is None:
            item = self._items[limit] = parse(limit)
        if not await self._hit(item, path):
            metrics.rate_limited.labels(path.partition("/")[0]).inc()
            raise RateLimited(f"more than {item}", float(item.get_expiry()))

    async def _hit(self, item: RateLimitItem, path: str) -> bool:
        if self._shared is None:
            return self._own.hit(item, _NAMESPACE, path)
        try:
            return await self._shared.hit(item, _NAMESPACE, path)
        except StorageError as error:
            log.warning("Redis can't count, nothing is limited", error=describe(error))
            return True
