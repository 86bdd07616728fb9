"""Exchange `payouts`: what providers say about money on its way to somebody, what Paybus does to
pay its recipients, and how far it came."""

from datetime import date

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits, SignedMinorUnits


class TransferReported(Payload):
    """A transfer to a seller's account with the provider, or a payout to a bank.

    `reference` is what we called it when we ordered it, if the provider repeats that. `amount` is
    None where the provider only names the transfer: it must be asked then. It is negative where the
    provider takes money out of the bank account, to make up for a balance below zero.
    `amount_returned` is how much of it came back, where the provider says so; None for all of it.
    """

    provider: str
    transfer_id: Id
    account: str | None = None
    reference: str | None = None
    amount: SignedMinorUnits | None = None
    currency: Currency | None = None
    amount_returned: MinorUnits | None = None
    reason: str | None = None


class EarningsAdjustment(Payload):
    """A command: the recipient has earned this much more, or less, once for each `request_id`.
    `recipient` is who ordered it calls them."""

    request_id: Id
    recipient: str
    amount: MinorUnits
    currency: Currency
    reason: str


class ProcessPayout(Payload):
    """A command: do what this payout's state asks for now. Doing it twice is doing it once.

    `ask` has the provider asked about it whatever its state: somebody says that it changed.
    """

    payout_id: Id
    provider: str
    account: str
    ask: bool = False


class GenerateDailyReport(Payload):
    """Write the tenant's report of a day (UTC)."""

    day: date


class ReconcileAccount(Payload):
    """Compare a day (UTC) of one account at a provider with the ledger."""

    day: date
    provider: str
    account: str


class PayoutChanged(Payload):
    """A payout after the change that the event's type names. `amount` is what is sent to the
    recipient, negative for what the provider takes back from the recipient's bank; `fee` is what
    the recipient is charged beside it."""

    payout_id: Id
    recipient_id: Id
    recipient: str
    provider: str
    account: str
    amount: SignedMinorUnits
    fee: MinorUnits
    currency: Currency
    transfer_id: str | None = None
    batch_id: str | None = None
    error: str | None = None
