"""Exchange `orders`: changes of the marketplace's orders."""

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits


class SellerShare(Payload):
    """A seller's share: `gross` of the order's total, of which `refunded` went back and `held` is
    held back from the seller."""

    seller: str
    gross: MinorUnits
    refunded: MinorUnits
    held: MinorUnits = 0


class OrderChanged(Payload):
    """Order after the change that the event type names.

    `reference` and `buyer` are the shop's own names for the order and its buyer. `refunded` is the
    sum of the refunds of its payment that Paybus made; `held` is what was disputed, or refunded in
    another way, at the provider.
    """

    order_id: Id
    reference: str
    buyer: str
    state: str
    currency: Currency
    total: MinorUnits
    refunded: MinorUnits
    held: MinorUnits = 0
    shares: list[SellerShare]
    reason: str | None = None
