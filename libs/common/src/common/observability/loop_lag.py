"""Measures how long one turn of the event loop keeps everybody else waiting."""

from __future__ import annotations

import asyncio
import time

from common.observability import metrics

_EVERY_SECONDS = 0.05


async def beat() -> None:
    """Until it is cancelled. What counts is the thread's own time: a machine that has no processor
    for us just now is no fault of a handler's."""
    while True:
        expected, worked = time.monotonic() + _EVERY_SECONDS, time.thread_time()
        await asyncio.sleep(_EVERY_SECONDS)
        late = time.monotonic() - expected
        held = min(late, time.thread_time() - worked)
        metrics.event_loop_held_seconds.observe(max(0.0, held))
