"""Exchange `payouts`: provider reports about outgoing money, commands that pay Paybus's recipients,
and the progress of payouts."""

from datetime import date

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits, SignedMinorUnits


class TransferReported(Payload):
    """Transfer to a seller's account with the provider, or a payout to a bank.

    `reference` is the id that we gave it when we created it, if the provider returns it. `amount`
    is None where the provider only names the transfer, which must then be queried. It is negative
    where the provider debits the bank account to cover a balance below zero. For a returned
    transfer, `amount_returned` is the part that came back, if the provider reports it; None means
    that all of it came back.
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
    """Command: adjust a recipient's earnings up or down, as the event type says, once per
    `request_id`.

    `recipient` is the requester's own name for the recipient.
    """

    request_id: Id
    recipient: str
    amount: MinorUnits
    currency: Currency
    reason: str


class ProcessPayout(Payload):
    """Command: do what this payout's state requires now. Idempotent.

    `ask` forces a status check at the provider in any state; it is set when a report says
    that the payout changed.
    """

    payout_id: Id
    provider: str
    account: str
    ask: bool = False


class GenerateDailyReport(Payload):
    """Command: write the tenant's report of a day (UTC)."""

    day: date


class ReconcileAccount(Payload):
    """Command: compare a day (UTC) of one account at a provider with the ledger."""

    day: date
    provider: str
    account: str


class PayoutChanged(Payload):
    """Payout after the change that the event type names.

    `amount` is sent to the recipient; it is negative for a debit of the recipient's bank account.
    `fee` is charged to the recipient in addition.
    """

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
