"""Plaid's data, and its meaning for an item. Pure: no I/O, no clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum

from common.contracts.money import exponent


class Health(StrEnum):
    """The health of an item, from best to worst."""

    HEALTHY = "healthy"
    NEW_ACCOUNTS = "new_accounts"
    PENDING_EXPIRATION = "pending_expiration"
    PENDING_DISCONNECT = "pending_disconnect"
    LOGIN_REQUIRED = "login_required"
    REVOKED = "revoked"


WHAT_TO_DO: Mapping[Health, str | None] = {
    Health.HEALTHY: None,
    Health.NEW_ACCOUNTS: "the user may share further accounts: open Link in update mode with "
    "account selection",
    Health.PENDING_EXPIRATION: "the user's consent ends: open Link in update mode before that",
    Health.PENDING_DISCONNECT: "the bank disconnects: open Link in update mode before that",
    Health.LOGIN_REQUIRED: "the user has to log in again: open Link in update mode",
    Health.REVOKED: "the user revoked the permission and the data is deleted: open Link in "
    "update mode, or link the bank again",
}
_LINK_ANEW = "the provider no longer knows the item: link the bank again"


def what_to_do(health: Health, reason: str | None) -> str | None:
    return _LINK_ANEW if reason in GONE_ERRORS else WHAT_TO_DO[health]


# https://plaid.com/docs/errors/item/: errors that the user fixes in Link's update mode.
LOGIN_ERRORS = frozenset(
    {
        "ITEM_LOGIN_REQUIRED", "ACCESS_NOT_GRANTED", "INSUFFICIENT_CREDENTIALS",
        "INVALID_CREDENTIALS", "INVALID_MFA", "INVALID_SEND_METHOD", "INVALID_UPDATED_USERNAME",
        "ITEM_LOCKED", "NO_ACCOUNTS", "USER_INPUT_TIMEOUT", "USER_SETUP_REQUIRED",
    }
)  # fmt: skip
REVOKED_ERRORS = frozenset({"USER_PERMISSION_REVOKED"})
# An item of another environment, or a removed one: final, but no reason to delete its data.
GONE_ERRORS = frozenset({"ITEM_NOT_FOUND", "INVALID_ACCESS_TOKEN"})


def health_of_error(code: str) -> Health | None:
    """Return the health that an error of the provider implies for an item; None for no change."""
    if code in LOGIN_ERRORS or code in GONE_ERRORS:
        return Health.LOGIN_REQUIRED
    return Health.REVOKED if code in REVOKED_ERRORS else None


def merge_health(health: Health, news: Health, *, repaired: bool = False) -> Health:
    """Return an item's health after a report. The worse health stands until `repaired`: the user
    completed Link's update mode, or the provider reports that the login works again."""
    if repaired:
        return Health.HEALTHY
    order = list(Health)
    return max(health, news, key=order.index)


def health_after_sync(health: Health, warning: Health | None) -> Health:
    """Return the health after a successful sync, which proves that the login works. A warning of
    the provider stands until the user acts on it."""
    return (warning or Health.HEALTHY) if health is Health.LOGIN_REQUIRED else health


@dataclass(frozen=True)
class Money:
    """`amount` is in minor units of an ISO 4217 `currency`; of an unofficial one in
    hundred-millionths. `rounded` is whether the bank's figure had further digits, or was too large
    to be stored."""

    amount: int
    currency: str | None
    unofficial: bool
    rounded: bool


_UNOFFICIAL_EXPONENT = 8
_MOST = Decimal(2**63 - 1)


def money(figure: Decimal, iso: str | None, unofficial: str | None) -> Money:
    """Convert the bank's figure. Raises `ValueError` for a value that is not a number."""
    digits = exponent(iso) if iso is not None else _UNOFFICIAL_EXPONENT
    exact = figure.scaleb(digits)
    if not exact.is_finite():
        raise ValueError("an amount that is not a number")
    whole = exact.to_integral_value(ROUND_HALF_EVEN)
    whole = max(-_MOST, min(_MOST, whole))
    return Money(int(whole), iso or unofficial, iso is None, whole != exact)


@dataclass(frozen=True)
class Account:
    """`available`, `current` and `limit` are None where the bank does not report them."""

    account_id: str
    name: str
    official_name: str | None
    mask: str | None
    type: str
    subtype: str | None
    available: int | None
    current: int | None
    limit: int | None
    currency: str | None
    unofficial: bool


@dataclass(frozen=True)
class Transaction:
    """`money` is positive when it leaves the account, as in Plaid's API."""

    transaction_id: str
    account_id: str
    money: Money
    date: dt.date
    authorized_date: dt.date | None
    at: dt.datetime | None
    name: str
    merchant: str | None
    pending: bool
    pending_transaction_id: str | None
    channel: str | None
    category: str | None
    category_detailed: str | None


@dataclass(frozen=True)
class SyncPage:
    """One response of /transactions/sync. `complete` is whether the entire history is available."""

    accounts: tuple[Account, ...]
    added: tuple[Transaction, ...]
    modified: tuple[Transaction, ...]
    removed: tuple[str, ...]
    next_cursor: str
    has_more: bool
    complete: bool


@dataclass
class SyncUpdate:
    """All pages of an update, merged: the transactions present after it, and those removed. A
    `whole` one was read from the beginning, although some transactions are stored already."""

    accounts: dict[str, Account] = field(default_factory=dict)
    there: dict[str, Transaction] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    pages: int = 0
    added: int = 0
    modified: int = 0
    removed: int = 0
    cursor: str = ""
    complete: bool = False
    whole: bool = False

    def take(self, page: SyncPage) -> None:
        self.pages += 1
        self.added += len(page.added)
        self.modified += len(page.modified)
        self.removed += len(page.removed)
        self.complete = page.complete
        self.accounts |= {each.account_id: each for each in page.accounts}
        for each in (*page.added, *page.modified):
            self.there[each.transaction_id] = each
            self.gone.discard(each.transaction_id)
        for id_ in page.removed:
            self.there.pop(id_, None)
            self.gone.add(id_)
