"""Redis calls with short timeouts, and none for a while after Redis stopped responding."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from redis.exceptions import RedisError

from common.errors import describe

_ANSWER_SECONDS = 0.2
# TLS takes several round trips and computation on both sides, once per connection.
_TLS_CONNECT_SECONDS = 2.0
_FAILURES = 3
_OPEN_SECONDS = 5.0

ValueT = TypeVar("ValueT")


class RedisAway(Exception):
    """Redis does not respond, or did not recently; `str()` gives the reason."""


def time_limits(url: str) -> dict[str, Any]:
    """Return the timeouts of a client of that URL (`redis://` or `rediss://`) as keyword arguments,
    in seconds."""
    by_tls = url.startswith("rediss://")
    return {
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": _TLS_CONNECT_SECONDS if by_tls else _ANSWER_SECONDS,
    }


class RedisCircuit:
    """Circuit breaker: after three errors in a row Redis is not called for five seconds."""

    def __init__(self) -> None:
        self._circuits = AsyncCircuitBreakerFactory(
            default_threshold=_FAILURES, default_ttl=_OPEN_SECONDS
        )

    async def ask(self, call: Callable[[], Awaitable[ValueT]]) -> ValueT:
        """Return the call's result. Raise `RedisAway`."""
        try:
            async with await self._circuits.get_breaker("redis"):
                return await call()
        except OpenedState:
            raise RedisAway("it did not respond recently") from None
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(describe(error)) from error
