"""One transaction for the concurrent requests of many tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from common.db.database import Sessions
from common.errors import PaybusError, Unavailable, describe
from common.observability.logging import get_logger

log = get_logger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Run = Callable[[AsyncSession, Sequence[ItemT]], Awaitable[Sequence[ResultT | PaybusError]]]


class GroupCommit(Generic[ItemT, ResultT]):
    """Combination of concurrent items into one transaction on one connection.

    `run` processes a batch. It returns for each item a result, or an error of that item, which must
    not have changed anything. Callers get their results after the commit. When a batch fails, each
    of its items runs alone, so that one item never fails its neighbours.
    """

    def __init__(self, sessions: Sessions, run: Run[ItemT, ResultT], *, most: int = 100) -> None:
        self._sessions = sessions
        self._run = run
        self._most = most
        self._waiting: asyncio.Queue[tuple[ItemT, asyncio.Future[ResultT]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name="group-commit")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        while not self._waiting.empty():
            _, waiting = self._waiting.get_nowait()
            if not waiting.done():
                waiting.set_exception(Unavailable("the process is stopping"))

    async def do(self, item: ItemT) -> ResultT:
        """Return the item's result. Raise its own error, or the error of the transaction."""
        if self._task is None or self._task.done():
            raise Unavailable("the process is stopping")
        waiting: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, waiting))
        return await waiting

    async def _loop(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._most and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._settle(batch)
            except asyncio.CancelledError:
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(Unavailable("the process is stopping"))
                raise

    async def _settle(self, batch: Sequence[tuple[ItemT, asyncio.Future[ResultT]]]) -> None:
        try:
            async with self._sessions.begin() as session:
                results = await self._run(session, [item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - each waiter gets the error and decides
            if len(batch) > 1:
                log.info("batch_failed_running_singly", size=len(batch), error=describe(error))
                for each in batch:
                    await self._settle([each])
            else:
                _fail(batch[0][1], error)
            return
        for (_, waiting), result in zip(batch, results, strict=True):
            if isinstance(result, PaybusError):
                _fail(waiting, result)
            elif not waiting.done():
                waiting.set_result(result)


def _fail(waiting: asyncio.Future[ResultT], error: Exception) -> None:
    if not waiting.done():  # the waiting task may have been cancelled
        waiting.set_exception(error)
