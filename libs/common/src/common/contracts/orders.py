"""Exchange `orders`: what becomes of the marketplace's orders."""

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits


class SellerShare(Payload):
    """A seller's part: `gross` of the order's total, of which `refunded` went back."""

    seller: str
    gross: MinorUnits
    refunded: MinorUnits


class OrderChanged(Payload):
    """An order after the change that the event's type names. `reference` is the shop's own name for
    it, `buyer` the shop's for who buys; `refunded` is the sum of what goes back of its payment."""

    order_id: Id
    reference: str
    buyer: str
    state: str
    currency: Currency
    total: MinorUnits
    refunded: MinorUnits
    shares: list[SellerShare]
    reason: str | None = None
