"""What an operator had sent again keeps a mark: whoever handles it tells what became of it.

A failure needs no telling: it ends among the dead letters, the mark with it.
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
    """The header of a message that is sent again as this item of a replay."""
    return {MARK: item}


def replay_item_of(headers: Mapping[str, Any]) -> str | None:
    """The item of a replay that the message is, if it is one."""
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
    """What became of these items; `first` is one of the events that they are, if they are any."""
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
    """Return when the broker has it; raises `Unavailable`. Before the messages that it is about are
    acknowledged: who dies in between handles and tells them again."""
    await publisher.publish_event(event)
