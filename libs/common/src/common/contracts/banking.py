"""Exchange `banking`: what providers say about a customer's link to a bank."""

from pydantic import AwareDatetime

from common.contracts.event import Id, Payload


class BankItemReported(Payload):
    """News of one item (a customer's login at one bank). The event's type says what kind.

    `until` is when the link ends unless the customer acts; the two flags come with new
    transactions only.
    """

    provider: str
    item_id: Id
    reason: str | None = None
    until: AwareDatetime | None = None
    initial_update_complete: bool | None = None
    historical_update_complete: bool | None = None
