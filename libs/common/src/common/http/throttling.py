"""Rate limits of the APIs, per caller and per address.

The `throttled` library counts, in Redis for all replicas if it is configured, else in each process.
While Redis is unreachable every call passes: a caller with a valid token is not turned away for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from prometheus_client import Counter
from throttled.asyncio import MemoryStore, RateLimitResult, RedisStore, Throttled, per_min
from throttled.exceptions import StoreUnavailableError

from common.errors import TooMany
from common.observability.logging import get_logger
from common.resilience.redis import RedisAway, RedisCircuit, time_limits
from common.settings import ThrottleSettings

log = get_logger(__name__)

_MOST_KEPT = 100_000
_ALGORITHMS = {
    "fixed-window": "fixed_window",
    "sliding-window": "sliding_window",
    "token-bucket": "token_bucket",
}

throttled = Counter(
    "paybus_api_throttled_total",
    "Requests rejected with 429, by rate limit: token, address, sign-in.",
    ["kind"],
)


class Throttle:
    """Rate limits that allow one minute's calls at once, then calls at the limit's rate."""

    def __init__(self, settings: ThrottleSettings) -> None:
        url = settings.redis_url.get_secret_value() if settings.redis_url is not None else None
        self._circuit = RedisCircuit()
        self._trusted: Sequence[IPv4Network | IPv6Network] = settings.trusted_proxies
        store = (
            RedisStore(server=url, options=_in_capitals(time_limits(url)))
            if url is not None
            else MemoryStore(options={"MAX_SIZE": _MOST_KEPT})
        )
        self._limits = {
            by: Throttled(
                using=_ALGORITHMS[settings.rate_limit_strategy],
                quota=per_min(most),
                store=store,
                key_prefix=f"paybus-api-{by}",
            )
            for by, most in (
                ("token", settings.calls_per_minute_per_token),
                ("address", settings.calls_per_minute_per_address),
                ("sign-in", settings.sign_ins_per_minute),
            )
        }

    async def acquire(self, by: str, key: str) -> None:
        """Count a call by its `token`, its `address`, or as a `sign-in`. Raise `TooMany`."""
        try:
            result = await self._circuit.ask(partial(self._count, by, key))
        except RedisAway as error:
            log.warning("redis_unavailable_rate_limits_off", error=str(error))
            return
        if result.limited:
            throttled.labels(by).inc()
            raise TooMany(f"too many calls, counted by {by}", max(1.0, result.state.retry_after))

    async def _count(self, by: str, key: str) -> RateLimitResult:
        try:
            return await self._limits[by].limit(key)
        except StoreUnavailableError as error:  # not a subclass of the errors it wraps
            raise ConnectionError(str(error.__cause__ or error)) from error

    def address(self, client: str, forwarded_for: Sequence[str]) -> str:
        """Return the address that a call is counted for.

        For a call through our proxies this is the last address in all its X-Forwarded-For headers
        that is not one of them. For IPv6 it is the /64 network, which one household has.
        """
        forwarded = [each.strip() for each in ",".join(forwarded_for).split(",")]
        hops = [client, *(each for each in reversed(forwarded) if each)]
        return _counted(next((each for each in hops if not self._is_trusted(each)), hops[-1]))

    def _is_trusted(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self._trusted)
        except ValueError:
            return False


def _counted(address: str) -> str:
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(known.ipv4_mapped or IPv6Network((known, 64), strict=False))


def _in_capitals(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options under the library's names."""
    return {name.upper(): value for name, value in options.items()}
