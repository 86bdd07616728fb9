"""Mark of replayed messages: the service that handles one reports its outcome.

A failure is not reported: it becomes a dead letter that carries the mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from common.contracts.event import Event, derived_id
from common.contracts.operations import ReplayItemsCompleted
from common.messaging.events import new_event
from common.messaging.publisher import Publisher

MARK: Final = "x-paybus-replay"
_TYPE: Final = "replay.items_completed"


def replay_headers(item: str) -> dict[str, Any]:
    """Return the header of a message that is sent again as this replay item."""
    return {MARK: item}


def replay_item_of(headers: Mapping[str, Any]) -> str | None:
    """Return the replay item that the message is; None without one."""
    item = headers.get(MARK)
    return item if isinstance(item, str) and 0 < len(item) <= 255 else None


def replay_completed(
    queue: str,
    source: str,
    first: Event[Any] | None,
    *,
    done: Sequence[str],
    duplicates: Sequence[str] = (),
) -> Event[ReplayItemsCompleted]:
    """Return the report of these items; `first` is one of their events, None if they are no
    events."""
    anybody = next(iter((*done, *duplicates)))
    return new_event(
        id=derived_id(_TYPE, queue, *done, "", *duplicates),
        type=_TYPE,
        source=source,
        subject=queue,
        tenant=first.tenant if first is not None else "default",
        correlationid=first.correlationid if first is not None else anybody,
        data=ReplayItemsCompleted(queue=queue, done=list(done), duplicates=list(duplicates)),
    )


async def publish_completed(publisher: Publisher, event: Event[ReplayItemsCompleted]) -> None:
    """Return when the broker has the event; raise `Unavailable`.

    Call it before the reported messages are acknowledged: after a crash in between they are handled
    and reported again.
    """
    await publisher.publish_event(event)
