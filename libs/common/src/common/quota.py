"""So many a second, counted for all replicas together in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, DateTime, MetaData, Table, Text, text

from common.database import Sessions
from common.errors import RateLimited

metadata = MetaData()

quotas = Table(
    "quotas",
    metadata,
    Column("name", Text, primary_key=True),
    Column("full_at", DateTime(timezone=True), nullable=False),
)

# The generic cell rate algorithm (ITU-T I.371): `full_at` is when all that was granted is used up.
_TAKE = text(
    """
    INSERT INTO quotas AS q (name, full_at)
    VALUES (:name, clock_timestamp() + :step * interval '1 second')
    ON CONFLICT (name) DO UPDATE
       SET full_at = greatest(q.full_at, clock_timestamp()) + :step * interval '1 second'
     WHERE q.full_at <= clock_timestamp() + :latest * interval '1 second'
    RETURNING extract(epoch FROM full_at - clock_timestamp())::float8
    """
)


@dataclass(frozen=True)
class Quota:
    """`per_second` on average, `burst` at once. `name` is what all replicas call it."""

    name: str
    per_second: float
    burst: int

    async def take(self, sessions: Sessions, *, most_seconds: float) -> float:
        """A place in the line: how many seconds to wait for it.

        Raises `RateLimited` when that would be more than `most_seconds`; nothing is taken then.
        """
        step = 1 / self.per_second
        slack = self.burst * step
        async with sessions.begin() as session:
            full_in: float | None = await session.scalar(
                _TAKE, {"name": self.name, "step": step, "latest": slack - step + most_seconds}
            )
        if full_in is None:
            raise RateLimited(f"the limit of {self.per_second:g} a second is used up", most_seconds)
        return max(0.0, full_in - slack)
