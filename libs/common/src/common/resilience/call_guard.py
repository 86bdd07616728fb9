"""Guard of every call to an external system: concurrency, rate, and circuit breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client import Gauge
from purgatory import AsyncCircuitBreakerFactory, ContextChanged
from purgatory.domain.model import OpenedState

from common.errors import Permanent, ProviderRejected, ProviderTimeout, RateLimited, Upstream
from common.observability.logging import get_logger
from common.resilience.rate_limiter import RateLimiter

log = get_logger(__name__)

circuit_breaker_state = Gauge(
    "paybus_circuit_breaker_state",
    "1 for the current state of a system's circuit breaker (closed, half_open, open), else 0.",
    ["system", "state"],
)

CLOSED = "closed"
# As purgatory names them, and as the metric does.
_STATES = {CLOSED: "closed", "half-opened": "half_open", "opened": "open"}

OnChange = Callable[[str], None]


def ignore(_: str) -> None:
    """Discard the circuit's new state."""


class CircuitOpen(RateLimited):
    """Too many calls in a row got no response; no call is made for a while."""


class CallGuard:
    """Guard of the calls to one account of one system. While the circuit is open no call is made.

    `max_concurrency` limits the calls of this process, `quota` those of all replicas. `failures`
    calls in a row without a response open the circuit for `open_seconds`; then calls are let
    through on trial, and the first failure opens it again. `answers` are further errors that count
    as responses. `on_change` receives the circuit's new state.
    """

    def __init__(
        self,
        system: str,
        *,
        label: str,
        max_concurrency: int,
        quota: RateLimiter | None,
        failures: int = 10,
        answers: Sequence[type[Exception]] = (),
        open_seconds: float = 30,
        wait_seconds: float = 2,
        on_change: OnChange = ignore,
    ) -> None:
        self.system = system
        self._label = label
        self._places = asyncio.Semaphore(max_concurrency)
        self._quota = quota
        self._open_seconds = open_seconds
        self._wait_seconds = wait_seconds
        self._on_change = on_change
        # A refusal is a response, too; only silence and server errors count as failures.
        self._circuits = AsyncCircuitBreakerFactory(
            default_threshold=failures,
            default_ttl=open_seconds,
            exclude=[
                ProviderRejected,
                Permanent,
                RateLimited,
                *answers,
                (Exception, lambda e: not isinstance(e, Upstream)),
            ],
        )
        self._circuits.add_listener(self._changed)
        self._state, self._since = CLOSED, time.monotonic()
        for state, name in _STATES.items():
            circuit_breaker_state.labels(label, name).set_function(partial(self._is, state))

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Admit one piece of work, which may make several calls; each goes through `call`.

        Raise `RateLimited` when there is no place in time, `CircuitOpen` while no call is made.
        """
        if self._is("opened"):
            raise CircuitOpen(
                f"{self.system} fails or does not respond: no call is made for "
                f"{self._open_seconds:g} s",
                self._open_seconds,
            )
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise RateLimited(
                f"{self.system} has as many calls of ours as its account allows", self._wait_seconds
            ) from None
        try:
            if self._quota is not None:
                wait = await self._quota.acquire(most_seconds=self._wait_seconds)
                await asyncio.sleep(wait)
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Wrap one call and count its errors. Raise `CircuitOpen`, too."""
        circuit = await self._circuits.get_breaker(self.system)
        cancelled: BaseException | None = None
        started, outcome = time.perf_counter(), "succeeded"
        try:
            async with circuit:
                try:
                    yield
                except Exception as error:
                    outcome = type(error).__name__
                    raise
                except BaseException as error:
                    outcome = "cancelled"
                    # A cancelled call was not awaited any longer: that counts as silence, too.
                    cancelled = error
                    raise ProviderTimeout("did not respond in time") from error
        except OpenedState:
            outcome = "not_made"
            raise CircuitOpen(
                f"{self.system} fails or does not respond", self._open_seconds
            ) from None
        except ProviderTimeout:
            if cancelled is not None:
                raise cancelled from None
            raise
        finally:
            duration = round((time.perf_counter() - started) * 1000, 1)
            log.info("external_call", system=self.system, outcome=outcome, duration_ms=duration)

    def _is(self, state: str) -> bool:
        """Whether the circuit is in a state: one whose time is up is on trial, called or not."""
        now = self._state
        if now == "opened" and time.monotonic() - self._since >= self._open_seconds:
            now = "half-opened"
        return now == state

    def _changed(self, _: str, kind: str, event: object) -> None:
        if kind == "state_changed" and isinstance(event, ContextChanged):
            self._state, self._since = event.state, time.monotonic()
            log.warning("circuit_state_changed", system=self.system, state=event.state)
            self._on_change(event.state)
