"""Rate limits of calls, shared by all replicas: counted by the `limits` library in Redis where it
is configured, in PostgreSQL without Redis or while Redis is unavailable."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial

from limits import RateLimitItemPerMinute
from limits.aio import storage, strategies

from common.db.database import Sessions
from common.errors import RateLimited
from common.observability.logging import get_logger
from common.resilience.rate_limiter import RateLimiter
from common.resilience.redis import RedisAway, RedisCircuit, time_limits

log = get_logger(__name__)

_NAMESPACE = "paybus-banks"
_MOST_KEPT = 10_000
# A call that would wait longer is refused, to be retried later.
_LONGEST_WAIT_SECONDS = 2.0


class ProviderRateLimiter:
    def __init__(self, sessions: Sessions, redis_url: str | None) -> None:
        self._sessions = sessions
        self._quotas: OrderedDict[tuple[str, int], RateLimiter] = OrderedDict()
        self._circuit = RedisCircuit()
        self._redis: strategies.MovingWindowRateLimiter | None = None
        if redis_url is not None:
            self._redis = strategies.MovingWindowRateLimiter(
                storage.RedisStorage(
                    f"async+{redis_url}",
                    implementation="redispy",
                    **time_limits(redis_url),
                )
            )

    async def acquire(self, name: str, per_minute: int) -> None:
        """Count one call, waiting for its turn if that comes soon. Raises `RateLimited`."""
        if self._redis is not None:
            try:
                item = RateLimitItemPerMinute(per_minute)
                allowed = await self._circuit.ask(partial(self._redis.hit, item, _NAMESPACE, name))
            except RedisAway as error:
                log.warning("redis_unavailable_using_postgresql", error=str(error))
            else:
                if not allowed:
                    raise RateLimited(
                        f"{per_minute} calls a minute have been made", 60 / per_minute
                    )
                return
        try:
            wait = await self._quota(name, per_minute).acquire(most_seconds=_LONGEST_WAIT_SECONDS)
        except RateLimited as error:
            raise RateLimited(
                f"{per_minute} calls a minute have been made",
                max(error.retry_after, 60 / per_minute),
            ) from None
        await asyncio.sleep(wait)

    def _quota(self, name: str, per_minute: int) -> RateLimiter:
        key = (name, per_minute)
        if (quota := self._quotas.get(key)) is None:
            # A burst, and the rest spread over the minute: never more than the limit in any minute.
            burst = max(per_minute // 5, min(2, per_minute - 1))
            quota = RateLimiter(name, (per_minute - burst) / 60, burst, self._sessions)
            self._quotas[key] = quota
            if len(self._quotas) > _MOST_KEPT:
                self._quotas.popitem(last=False)
        self._quotas.move_to_end(key)
        return quota
