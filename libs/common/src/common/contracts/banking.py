"""Exchange `banking`: provider reports about a customer's bank link, commands that sync its data,
and the resulting changes."""

from datetime import date
from typing import Literal

from pydantic import AwareDatetime

from common.contracts.event import Id, Payload


class ProviderBankItem(Payload):
    """Provider report about one item (a customer's login at one bank).

    The event type gives the kind, `code` the provider's own term. `account_id` is set when the
    report is about one account only. `until` is when the link ends unless the customer acts. The
    two flags accompany new transactions only.
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
    """Command: run this sync now. Idempotent."""

    sync_id: Id
    item: Id


class RemoveBankItem(Payload):
    """Command: remove this item at the provider. Idempotent."""

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
    """Linked item after the change that the event type names.

    `item` is Paybus's id, `item_id` the provider's; `user` is the tenant's own name for its user.
    """

    item: Id
    item_id: Id
    user: str
    institution_id: str | None = None
    health: Health
    reason: str | None = None
    until: AwareDatetime | None = None


class TransactionsSynced(Payload):
    """Result of one sync: how many transactions were added, modified and removed, and the earliest
    and latest days of the added or modified transactions that still exist."""

    item: Id
    user: str
    added: int
    modified: int
    removed: int
    first: date | None = None
    last: date | None = None
    historical_update_complete: bool


class BalanceUpdated(Payload):
    """Balance of an account after a change, in minor units (hundred-millionths for an unofficial
    currency); null where the bank reports none."""

    item: Id
    user: str
    account: Id
    available: int | None = None
    current: int | None = None
    limit: int | None = None
    currency: str | None = None
    unofficial_currency: bool = False
