"""Exchange `banking`: what providers say about a customer's link to a bank, what Paybus does to
keep its data in sync, and what changed by that."""

from datetime import date
from typing import Literal

from pydantic import AwareDatetime

from common.contracts.event import Id, Payload


class ProviderBankItem(Payload):
    """News of one item (a customer's login at one bank). The event's type says what kind, `code` in
    the provider's own word.

    `account_id` is given when it is about one account only; `until` is when the link ends unless
    the customer acts; the two flags come with new transactions only.
    """

    provider: str
    item_id: Id
    account_id: str | None = None
    code: str | None = None
    reason: str | None = None
    until: AwareDatetime | None = None
    initial_update_complete: bool | None = None
    historical_update_complete: bool | None = None


class RunBankSync(Payload):
    """A command: do this sync now. Doing it twice is doing it once."""

    sync_id: Id
    item: Id


class RemoveBankItem(Payload):
    """A command: have the provider let go of this item. Doing it twice is doing it once."""

    item: Id


Health = Literal[
    "healthy",
    "new_accounts",
    "pending_expiration",
    "pending_disconnect",
    "login_required",
    "revoked",
]


class BankItemChanged(Payload):
    """A linked item after the change that the event's type names. `item` is Paybus's id of it,
    `item_id` the provider's; `user` is whose it is, as the tenant calls that user."""

    item: Id
    item_id: Id
    user: str
    institution_id: str | None = None
    health: Health
    reason: str | None = None
    until: AwareDatetime | None = None


class TransactionsSynced(Payload):
    """What one sync changed: how many transactions were added, modified and removed, and the
    earliest and latest days among those that are there now."""

    item: Id
    user: str
    added: int
    modified: int
    removed: int
    first: date | None = None
    last: date | None = None
    historical_update_complete: bool


class BalanceUpdated(Payload):
    """An account's balance after a change, in minor units (of an unofficial currency in
    hundred-millionths); null where the bank does not say."""

    item: Id
    user: str
    account: Id
    available: int | None = None
    current: int | None = None
    limit: int | None = None
    currency: str | None = None
    unofficial_currency: bool = False
