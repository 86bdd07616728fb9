"""Measurement of how long one turn of the event loop blocks all other tasks."""

from __future__ import annotations

import asyncio
import time

from common.observability import metrics

_EVERY_SECONDS = 0.05


async def beat() -> None:
    """Measure until cancelled.

    Only the thread's own CPU time counts: a handler does not cause the delays of a busy machine.
    """
    while True:
        expected, worked = time.monotonic() + _EVERY_SECONDS, time.thread_time()
        await asyncio.sleep(_EVERY_SECONDS)
        late = time.monotonic() - expected
        held = min(late, time.thread_time() - worked)
        metrics.event_loop_held_seconds.observe(max(0.0, held))
