"""Exchange `payouts`: what providers say about money on its way to somebody."""

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits


class TransferReported(Payload):
    """A transfer to a seller's account with the provider, or a payout to a bank.

    `reference` is what we called it when we ordered it, if the provider repeats that. `amount` is
    None where the provider only names the transfer: it must be asked then.
    """

    provider: str
    transfer_id: Id
    account: str | None = None
    reference: str | None = None
    amount: MinorUnits | None = None
    currency: Currency | None = None
    reason: str | None = None
