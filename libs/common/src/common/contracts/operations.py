"""What consumers tell the operators' service."""

from typing import Literal

from common.contracts.event import Id, Payload


class ReplayHandled(Payload):
    """A message that an operator had sent again was handled. `duplicate` says that the service of
    `queue` had taken the event in already: by an earlier delivery, or by this one before its worker
    died."""

    item: Id
    queue: str
    outcome: Literal["done", "duplicate"]
