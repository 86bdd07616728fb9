"""Rate limits per second, counted for all replicas together in PostgreSQL."""

from __future__ import annotations

import asyncio

from sqlalchemy import Column, DateTime, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.database import Sessions
from common.errors import RateLimited

metadata = MetaData()

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("full_at", DateTime(timezone=True), nullable=False),
)

# The generic cell rate algorithm (ITU-T I.371): `full_at` is when all granted calls are used up.
_TAKE = text(
    """
    INSERT INTO rate_limits AS q (name, full_at)
    VALUES (:name, clock_timestamp() + :cost * interval '1 second')
    ON CONFLICT (name) DO UPDATE
       SET full_at = greatest(q.full_at, clock_timestamp()) + :cost * interval '1 second'
     WHERE q.full_at <= clock_timestamp() + :latest * interval '1 second'
    RETURNING extract(epoch FROM full_at - clock_timestamp())::float8
    """
)

# The seconds of `burst` in use, from a row that stays locked until the transaction ends.
_LOCK = text(
    """
    SELECT greatest(0, extract(epoch FROM full_at - clock_timestamp()))::float8
      FROM rate_limits WHERE name = :name FOR UPDATE SKIP LOCKED
    """
)
_ENSURE = text(
    "INSERT INTO rate_limits (name, full_at) VALUES (:name, clock_timestamp()) "
    "ON CONFLICT (name) DO NOTHING"
)
_ADD = text(
    """
    UPDATE rate_limits
       SET full_at = greatest(full_at, clock_timestamp()) + :seconds * interval '1 second'
     WHERE name = :name
    """
)
_DELETE_UNUSED = text("DELETE FROM rate_limits WHERE full_at < now() - interval '1 day'")
_BLOCK = text(
    """
    INSERT INTO rate_limits AS r (name, full_at)
    VALUES (:name, clock_timestamp() + :seconds * interval '1 second')
    ON CONFLICT (name) DO UPDATE SET full_at = greatest(r.full_at, EXCLUDED.full_at)
    """
)


async def delete_unused(session: AsyncSession) -> None:
    """Delete the limits that were not used for a day, for limits whose names come from rows."""
    await session.execute(_DELETE_UNUSED)


class SharedRate:
    """Rate limit for a caller that selects its work by the calls available now, in one transaction.

    `rate_per_second` is the average, `burst` the maximum at once, by all replicas together.
    """

    def __init__(self, name: str, rate_per_second: float, burst: int) -> None:
        self._name = name
        self._step = 1 / rate_per_second
        self._burst = burst

    async def available(self, session: AsyncSession) -> int:
        """Return how many calls may begin now, and lock the row; 0 while another replica has it
        locked."""
        await session.execute(_ENSURE, {"name": self._name})
        used: float | None = await session.scalar(_LOCK, {"name": self._name})
        # A partial call does not count, and rounding must not remove one.
        return 0 if used is None else max(0, int(self._burst - used / self._step + 1e-6))

    async def use(self, session: AsyncSession, calls: int) -> None:
        """Count `calls` of the available ones as begun."""
        if calls:
            await session.execute(_ADD, {"name": self._name, "seconds": calls * self._step})

    async def block(self, session: AsyncSession, seconds: float) -> None:
        """Let no call begin for `seconds`, as the external system requested."""
        used_up = self._burst * self._step
        await session.execute(_BLOCK, {"name": self._name, "seconds": used_up + seconds})


class RateLimiter:
    """Rate limit of `rate_per_second` on average and `burst` at once. All replicas share its
    `name`.

    Concurrent requests share one transaction.
    """

    def __init__(self, name: str, rate_per_second: float, burst: int, sessions: Sessions) -> None:
        self._name = name
        self._per_second = rate_per_second
        self._step = 1 / rate_per_second
        self._burst = burst
        self._sessions = sessions
        self._turn = asyncio.Lock()
        self._asking: list[asyncio.Future[float]] = []

    async def acquire(self, *, most_seconds: float) -> float:
        """Take a place in the line; return the seconds to wait for it.

        Raise `RateLimited` when that would exceed `most_seconds`; no place is taken then.
        """
        place: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._asking.append(place)
        async with self._turn:  # the first requests places for all that arrived meanwhile
            if not place.done():
                asking, self._asking = self._asking[: self._burst], self._asking[self._burst :]
                try:
                    await self._take(asking, most_seconds)
                except asyncio.CancelledError:  # only the task that acts for all is cancelled
                    _tell(asking, RateLimited("the caller was cancelled", 1))
                    raise
                except Exception as error:  # noqa: BLE001 - each waiter gets the error
                    _tell(asking, error)
        return await place

    async def _take(self, asking: list[asyncio.Future[float]], most_seconds: float) -> None:
        count = len(asking)
        slack = self._burst * self._step
        values = {
            "name": self._name,
            "cost": count * self._step,
            "latest": slack - count * self._step + most_seconds,
        }
        async with self._sessions.begin() as session:
            full_in: float | None = await session.scalar(_TAKE, values)
        if full_in is not None:
            for place, each in enumerate(asking):
                later = (count - 1 - place) * self._step
                if not each.done():
                    each.set_result(max(0.0, full_in - slack - later))
        elif count == 1:
            limit = f"the limit of {self._per_second:g} a second is used up"
            _tell(asking, RateLimited(limit, most_seconds))
        else:  # not enough for all of them
            await self._take(asking[: count // 2], most_seconds)
            await self._take(asking[count // 2 :], most_seconds)


def _tell(waiting: list[asyncio.Future[float]], error: Exception) -> None:
    for each in waiting:
        if not each.done():
            each.set_exception(error)
