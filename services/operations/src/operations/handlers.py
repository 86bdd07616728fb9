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

_TOLD = "outcomes"


async def handled(work: Work, event: Event[ReplayHandled]) -> None:
    """What a consumer tells of replayed messages; a batch of such events is written at once."""
    told: dict[str, ItemState] | None = work.session.info.get(_TOLD)
    if told is None:
        told = work.session.info[_TOLD] = {}

        async def write() -> None:
            await filing.settle(work.session, told, await rows.clock(work.session))

        work.at_end(write)
    for item in event.data.done:
        told[item] = ItemState.SUCCEEDED
    for item in event.data.duplicates:
        told.setdefault(item, ItemState.ALREADY_DONE)
    metrics.outcomes.labels("done").inc(len(event.data.done))
    metrics.outcomes.labels("duplicate").inc(len(event.data.duplicates))


HANDLERS: Mapping[str, Handler] = {"replay.handled": handled}
