"""Which event is handled how."""

from __future__ import annotations

from collections.abc import Mapping

from common import rows
from common.contracts.event import Event
from common.contracts.operations import ReplayHandled
from common.messaging.outbox import Work
from common.messaging.transactional import Handler
from operations import filing, metrics
from operations.domain import ItemState

_STATES = {"done": ItemState.SUCCEEDED, "duplicate": ItemState.ALREADY_DONE}
_TOLD = "outcomes"


async def handled(work: Work, event: Event[ReplayHandled]) -> None:
    """What a consumer tells of a replayed message; a batch of them is written at once."""
    told: dict[str, ItemState] = work.session.info.setdefault(_TOLD, {})
    told.setdefault(event.data.item, _STATES[event.data.outcome])
    metrics.outcomes.labels(event.data.outcome).inc()
    if len(told) == 1:

        async def write() -> None:
            await filing.settle(work.session, told, await rows.clock(work.session))

        work.at_end(write)


HANDLERS: Mapping[str, Handler] = {"replay.handled": handled}
