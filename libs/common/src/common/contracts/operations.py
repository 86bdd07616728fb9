"""What consumers tell the operators' service."""

from pydantic import Field

from common.contracts.event import Id, Payload


class ReplayItemsCompleted(Payload):
    """Messages that an operator had sent again were handled by the service of `queue`; each is
    named by its item of the replay. Those in `duplicates` it had taken in already: by an earlier
    delivery, or by this one before its worker died."""

    queue: str
    done: list[Id] = Field(default_factory=list)
    duplicates: list[Id] = Field(default_factory=list)
