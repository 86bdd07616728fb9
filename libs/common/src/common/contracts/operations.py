"""Reports of consumers to the operations service."""

from pydantic import Field

from common.contracts.event import Id, Payload


class ReplayItemsCompleted(Payload):
    """Replayed messages that the service of `queue` handled, each named by its replay item.

    Those in `duplicates` had already been processed: before the replay, or by the replay's first
    delivery, whose worker crashed before it acknowledged the message.
    """

    queue: str
    done: list[Id] = Field(default_factory=list)
    duplicates: list[Id] = Field(default_factory=list)
