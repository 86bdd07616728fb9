"""What an operator had sent again keeps a mark: whoever handles it tells what became of it.

A failure needs no telling: it ends among the dead letters, the mark with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from common.contracts.event import Event, derived_id, root
from common.contracts.operations import ReplayHandled
from common.contracts.registry import lookup
from common.messaging.publisher import Publisher

MARK: Final = "x-paybus-replay"
_TYPE: Final = "replay.handled"

Outcome = Literal["done", "duplicate"]


def mark(item: str) -> dict[str, Any]:
    """The header of a message that is sent again as this item of a replay."""
    return {MARK: item}


def marked(headers: Mapping[str, Any]) -> str | None:
    """The item of a replay that the message is, if it is one."""
    item = headers.get(MARK)
    return item if isinstance(item, str) and 0 < len(item) <= 255 else None


def handled(
    queue: str, source: str, item: str, event: Event[Any], outcome: Outcome
) -> Event[ReplayHandled]:
    return root(
        id=derived_id(_TYPE, queue, item, outcome),
        type=_TYPE,
        source=source,
        subject=item,
        tenant=event.tenant,
        correlationid=event.correlationid,
        data=ReplayHandled(item=item, queue=queue, outcome=outcome),
    )


async def tell(publisher: Publisher, events: Sequence[Event[ReplayHandled]]) -> None:
    """Return when the broker has them all; raises `Unavailable`. Before the messages that they are
    about are acknowledged: who dies in between handles and tells them again."""
    exchange = lookup(_TYPE).exchange
    messages = [(exchange, _TYPE, each.encode()) for each in events]
    for failed in await publisher.publish_all(messages):
        if failed is not None:
            raise failed
