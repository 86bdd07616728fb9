"""Broker connection that is re-established whenever it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential
from tenacity.wait import WaitBaseT

from common.errors import Unavailable, describe
from common.messaging import confirm_channel
from common.messaging.confirm_channel import ConfirmChannel
from common.observability.logging import get_logger

log = get_logger(__name__)

CONNECTION_ERRORS = (
    aiormq.exceptions.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    OSError,
    TimeoutError,
)

OnConnect = Callable[[AbstractConnection, bool], Awaitable[None]]
"""Gets the connection, and whether something of the topology was found to be missing."""

# A distant broker needs several round trips to connect, and more time when hundreds connect at
# once.
_CONNECT_SECONDS = 20
_CLOSE_SECONDS = 5
_DECLARE_SECONDS = 120
LONGEST_WAIT_SECONDS = 2.0
# A float, because powers of an integer would grow with the number of failures.
WAIT = wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT_SECONDS, exp_base=2.0)


@contextmanager
def broker_errors(what: str) -> Iterator[None]:
    """Translate every error of a broken connection to `Unavailable`, with `what` in its message."""
    try:
        yield
    except asyncio.CancelledError as error:
        # When a channel closes, aiormq raises CancelledError in its waiters, although no caller
        # cancelled them. Passed on, it would silently end the waiting task.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable(f"{what}: the channel to RabbitMQ closed") from error
    except CONNECTION_ERRORS as error:
        raise Unavailable(f"{what}: {describe(error)}") from error


class BrokerConnection:
    """One open connection, re-established whenever it is lost, and the channels on it.

    aio-pika's robust connection restores channels and consumers without the caller's knowledge.
    Here every user of a lost connection gets an error, and the same code as at startup sets
    everything up again from scratch. `on_connect` runs before any caller gets a channel. `wait` is
    tenacity's strategy of waiting between failures.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_connect: OnConnect,
        heartbeat_seconds: int = 10,
        wait: WaitBaseT = WAIT,
    ) -> None:
        self._url = url
        self._name = name
        self._on_connect = on_connect
        self._heartbeat = heartbeat_seconds
        self._wait = wait
        self._connection: AbstractConnection | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    @property
    def given_up(self) -> bool:
        """Return whether the task that connects has ended; only a restart can recover from that."""
        return self._task is not None and self._task.done()

    async def start(self) -> None:
        """Start to connect; return at once, even while the broker is unreachable."""
        self._task = asyncio.create_task(self._keep_connected(), name="broker")

    async def close(self) -> None:
        if self._task is not None:
            # Repeated: while it connects, aiormq may treat a cancellation as a failure.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=1)
        self._connected.clear()
        if self._connection is not None:
            await _close(self._connection)

    async def declare(self, *, missing: bool = True) -> None:
        """Declare the topology again, after a part of it was deleted.

        Without `missing`, declare it only if it is incomplete or was last declared long ago. Raise
        `Unavailable`.
        """
        with broker_errors("declaring the topology"):
            async with asyncio.timeout(_DECLARE_SECONDS):
                await self._connected.wait()
                assert self._connection is not None
                await self._on_connect(self._connection, missing)

    async def channel(
        self, *, confirms: bool = True, within: float | None = None
    ) -> AbstractChannel:
        """Return an open channel. Raise `Unavailable` without a connection `within` seconds."""
        with broker_errors("no channel to RabbitMQ"):
            async with asyncio.timeout(within):
                await self._connected.wait()
                assert self._connection is not None
                if self._connection.is_closed or self._connection.transport is None:
                    raise ConnectionError("the connection was lost")
                channel = self._connection.channel(
                    publisher_confirms=confirms, on_return_raises=confirms
                )
                await channel.initialize()
                return channel

    async def confirm_channel(self) -> ConfirmChannel:
        """Wait for a connection; return an open channel for publishing. Raise `Unavailable` when
        opening fails."""
        with broker_errors("no channel to RabbitMQ"):
            await self._connected.wait()
            assert self._connection is not None
            return await confirm_channel.open_on(self._connection)

    async def drop(self, channel: ConfirmChannel) -> None:
        """Close the channel's connection so that it is re-established, unless it already was."""
        connection = self._connection
        transport = connection.transport if connection is not None else None
        if (
            connection is None
            or transport is None
            or transport.connection is not channel.connection
        ):
            return
        log.error("broker_confirms_stopped", name=self._name)
        await _close(connection)

    async def _keep_connected(self) -> None:
        while True:
            self._connection, lost = await self._connect()
            self._connected.set()
            await lost.wait()
            self._connected.clear()
            log.warning("broker_connection_lost")
            await _close(self._connection)

    async def _connect(self) -> tuple[AbstractConnection, asyncio.Event]:
        """Connect and declare the topology, repeating both until they succeed. Return the
        connection, and the event that is set when it ends."""
        # Any exception: aiormq raises StopAsyncIteration when the server disconnects early.
        async for attempt in AsyncRetrying(wait=self._wait, before_sleep=_log_failure):
            with attempt:
                connected = await self._try_to_connect()
                log.info("broker_connected", after_failures=attempt.retry_state.attempt_number - 1)
                return connected
        raise AssertionError  # it retries for ever

    async def _try_to_connect(self) -> tuple[AbstractConnection, asyncio.Event]:
        with broker_errors("connecting"):
            async with asyncio.timeout(_CONNECT_SECONDS):
                connection = await aio_pika.connect(
                    self._url,
                    heartbeat=self._heartbeat,
                    client_properties={"connection_name": self._name},
                )
        lost = asyncio.Event()
        connection.close_callbacks.add(lambda *_: lost.set())
        try:
            with broker_errors("declaring the topology"):
                async with asyncio.timeout(_DECLARE_SECONDS):
                    await self._on_connect(connection, False)
        except Exception:
            await _close(connection)
            raise
        return connection, lost


def _log_failure(state: RetryCallState) -> None:
    failures = state.attempt_number
    error = state.outcome.exception() if state.outcome else None
    if error is not None and (failures in (1, 10) or failures % 60 == 0):
        log.warning("broker_connection_failed", error=describe(error))


async def _close(connection: AbstractConnection) -> None:
    try:
        with broker_errors("closing"):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await connection.close()
    except Unavailable as error:
        log.debug("broken_connection_close_failed", error=str(error))
