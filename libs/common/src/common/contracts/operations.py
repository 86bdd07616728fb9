"""Reports of consumers to the operations service."""

from pydantic import Field

from common.contracts.event import Id, Payload


class ReplayItemsCompleted(Payload):
    """Replayed messages that the service of `queue` handled, each named by its replay item.

    Those in `duplicates` had been processed already: by an earlier delivery, or by this one before
    its worker crashed.
    """

    queue: str
    done: list[Id] = Field(default_factory=list)
    duplicates: list[Id] = Field(default_factory=list)
