"""Events that are written in the transaction that causes them, and published after its commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, Payload
from common.contracts.registry import lookup
from common.db.bulk import columns_of, insert_rows
from common.errors import Permanent
from common.messaging.events import follow_up_event
from common.messaging.publisher import LARGEST_BODY
from common.messaging.tables import outbox

NOTIFY_CHANNEL: Final = "outbox"

_COLUMNS = ("exchange", "routing_key", "body")
_WRITE = insert_rows(outbox, _COLUMNS)


async def enqueue(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Publish the events if, and only if, the session's transaction commits; a relay wakes up then.

    Raise `Permanent` for an event that exceeds the broker's message size.
    """
    if not events:
        return
    rows = [
        {
            "exchange": lookup(event.type).exchange,
            "routing_key": event.type,
            "body": event.encode(),
        }
        for event in events
    ]
    for row in rows:
        if len(row["body"]) > LARGEST_BODY:
            raise Permanent(
                f"an event {row['routing_key']} of {len(row['body'])} bytes is larger than "
                f"RabbitMQ takes, {LARGEST_BODY}"
            )
    await session.execute(_WRITE, columns_of(rows, _COLUMNS))
    await session.execute(text(f"NOTIFY {NOTIFY_CHANNEL}"))


class UnitOfWork:
    """Open transaction of a handler, and a way to emit events with it."""

    def __init__(self, session: AsyncSession, source: str) -> None:
        self.session = session
        self._source = source
        self._emitted: list[Event[Any]] = []
        self._at_end: list[Callable[[], Awaitable[None]]] = []

    def emit(
        self,
        type_: str,
        data: Payload,
        *,
        subject: str,
        cause: Event[Any],
        sequence: int | None = None,
        tenant: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Publish `data` as an event of `type_` when the transaction commits.

        `tenant` and `correlation_id` are the cause's, unless the cause is a job, which serves all
        tenants and begins no trace.
        """
        expected = lookup(type_).payload
        if not isinstance(data, expected):
            raise TypeError(f"{type_} carries {expected.__name__}, not {type(data).__name__}")
        self._emitted.append(
            follow_up_event(
                cause,
                type=type_,
                source=self._source,
                subject=subject,
                data=data,
                sequence=sequence,
                tenant=tenant,
                correlation_id=correlation_id,
            )
        )

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Run a part that may fail separately: only its own rows and events are then undone."""
        before = len(self._emitted)
        try:
            async with self.session.begin_nested():
                yield
        except BaseException:
            del self._emitted[before:]
            raise

    def before_commit(self, act: Callable[[], Awaitable[None]]) -> None:
        """Run `act` once, after all handlers of the transaction, to write what they collected."""
        if act not in self._at_end:
            self._at_end.append(act)

    async def flush(self) -> None:
        """Write the emitted events to the outbox. The owner of the transaction calls it last."""
        for act in self._at_end:
            await act()
        emitted, self._emitted = self._emitted, []
        await enqueue(self.session, emitted)
