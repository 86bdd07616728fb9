"""The bank data behind Plaid: items with accounts and transactions, and their changes.

https://plaid.com/docs/api/products/transactions/#transactionssync
"""

from __future__ import annotations

import json
import random
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

_MERCHANTS = (
    ("Uber", "TRANSPORTATION", "TRANSPORTATION_TAXIS_AND_RIDE_SHARES"),
    ("Whole Foods", "FOOD_AND_DRINK", "FOOD_AND_DRINK_GROCERIES"),
    ("Starbucks", "FOOD_AND_DRINK", "FOOD_AND_DRINK_COFFEE"),
    ("City Power", "RENT_AND_UTILITIES", "RENT_AND_UTILITIES_GAS_AND_ELECTRICITY"),
    ("United Airlines", "TRAVEL", "TRAVEL_FLIGHTS"),
    ("Acme Payroll", "INCOME", "INCOME_WAGES"),
)
_LOCATION = ("address", "city", "region", "postal_code", "country", "lat", "lon", "store_number")
_PAYMENT_META = (
    "by_order_of", "payee", "payer", "payment_method", "payment_processor", "ppd_id", "reason",
    "reference_number",
)  # fmt: skip
INSTITUTIONS = {
    "ins_109508": "First Platypus Bank",
    "ins_109509": "First Gingham Credit Union",
    "ins_109510": "Tattersall Federal Credit Union",
}


def error_type(code: str) -> str:
    """Return the error type of an item's error code."""
    return "INSTITUTION_ERROR" if code.startswith("INSTITUTION_") else "ITEM_ERROR"


class PlaidFault(Exception):
    """An error response; https://plaid.com/docs/errors/"""

    def __init__(
        self, type_: str, code: str, message: str | None = None, *, status: int = 400
    ) -> None:
        super().__init__(code)
        self.type, self.code, self.status = type_, code, status
        self.message = message or f"the sandbox says {code}"

    def body(self) -> dict[str, Any]:
        return {
            "error_type": self.type,
            "error_code": self.code,
            "error_message": self.message,
            "display_message": None,
            "request_id": uuid4().hex[:15],
        }


@dataclass
class Transaction:
    """`added`, `changed` and `removed` are positions in the item's history; 0 for never."""

    body: dict[str, Any]
    added: int
    changed: int
    removed: int = 0
    _text: str = ""

    @property
    def text(self) -> str:
        if not self._text:
            self._text = json.dumps(self.body)
        return self._text

    def change(self, at: int, **body: Any) -> None:
        self.body |= body
        self.changed = at
        self._text = ""

    def there_at(self, position: int) -> bool:
        return self.added <= position and not 0 < self.removed <= position


@dataclass
class Item:
    """`position` counts the changes of the item's transactions."""

    client_id: str
    institution_id: str
    webhook: str | None
    id: str = field(default_factory=lambda: f"item{uuid4().hex[:20]}")
    access_token: str = field(default_factory=lambda: f"access-sandbox-{uuid4()}")
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    position: int = 0
    error: str | None = None
    ready: bool = True
    mutations: int = 0
    # Cursors of another series are refused.
    cursors_of: int = 0
    calls: deque[float] = field(default_factory=deque)

    def error_body(self) -> dict[str, Any] | None:
        return PlaidFault(error_type(self.error), self.error).body() if self.error else None


@dataclass(frozen=True)
class Change:
    """A change at a bank, as numbers of transactions; `post` makes pending ones posted."""

    add: int = 0
    modify: int = 0
    remove: int = 0
    post: int = 0


class Bank:
    """`per_minute` limits an item's syncs and balance queries. An item's `mutations` are the number
    of consecutive syncs that are disturbed between two pages."""

    def __init__(self, seed: int) -> None:
        self.items: dict[str, Item] = {}
        self.public_tokens: dict[str, str] = {}
        self.link_tokens: dict[str, dict[str, Any]] = {}
        self.per_minute: int | None = None
        self.limited = 0
        self._by_token: dict[str, Item] = {}
        self._chance = random.Random(seed)  # noqa: S311 - reproducible misbehaviour

    def open(
        self,
        *,
        client_id: str,
        institution_id: str,
        webhook: str | None,
        transactions: int,
        accounts: int = 2,
    ) -> Item:
        if institution_id not in INSTITUTIONS:
            raise PlaidFault("INVALID_INPUT", "INVALID_INSTITUTION")
        item = Item(client_id, institution_id, webhook)
        for number in range(accounts):
            self.add_account(item, number)
        self.items[item.id] = item
        self._by_token[item.access_token] = item
        self.change(item, Change(add=transactions))
        return item

    def revoke_account(self, item: Item, account_id: str) -> None:
        """Remove an account: https://plaid.com/docs/api/items/#user_account_revoked"""
        item.accounts.pop(account_id, None)
        of = {id_: each.body["account_id"] for id_, each in item.transactions.items()}
        for id_ in (id_ for id_, account in of.items() if account == account_id):
            del item.transactions[id_]

    def add_account(self, item: Item, number: int) -> None:
        current = self._chance.randint(10_000, 900_000) / 100
        account_id = uuid4().hex
        item.accounts[account_id] = {
            "account_id": account_id,
            "balances": {
                "available": current,
                "current": current,
                "iso_currency_code": "USD",
                "unofficial_currency_code": None,
                "limit": None,
            },
            "mask": f"{number:04d}",
            "name": f"Plaid Account {number}",
            "official_name": None,
            "type": "depository",
            "subtype": "checking" if number % 2 == 0 else "savings",
        }

    def issue(self, item: Item) -> str:
        token = f"public-sandbox-{uuid4()}"
        self.public_tokens[token] = item.id
        return token

    def exchange(self, client_id: str, public_token: str) -> Item:
        item = self.items.get(self.public_tokens.pop(public_token, ""))
        if item is None or item.client_id != client_id:
            raise PlaidFault("INVALID_INPUT", "INVALID_PUBLIC_TOKEN")
        return item

    def item(self, client_id: str, access_token: str, *, well: bool = True) -> Item:
        """Return the item. With `well`, an item whose login is broken is an error."""
        item = self._by_token.get(access_token)
        if item is None or item.client_id != client_id:
            raise PlaidFault("INVALID_INPUT", "INVALID_ACCESS_TOKEN")
        if well and item.error is not None:
            raise PlaidFault(error_type(item.error), item.error)
        return item

    def remove(self, item: Item) -> None:
        del self.items[item.id]
        del self._by_token[item.access_token]

    def count(self, item: Item, code: str) -> None:
        """Count a call that is limited per item."""
        now = time.monotonic()
        while item.calls and item.calls[0] < now - 60:
            item.calls.popleft()
        if self.per_minute is not None and len(item.calls) >= self.per_minute:
            self.limited += 1
            raise PlaidFault("RATE_LIMIT_EXCEEDED", code, status=429)
        item.calls.append(now)

    def change(self, item: Item, change: Change) -> None:
        for _ in range(change.add):
            self._add(item)
        for each in self._some(item, change.modify):
            item.position += 1
            name, primary, detailed = self._chance.choice(_MERCHANTS)
            each.change(
                item.position,
                merchant_name=name,
                amount=self._amount(),
                personal_finance_category=_category(primary, detailed),
            )
        for each in self._some(item, change.remove):
            item.position += 1
            each.removed = each.changed = item.position
        pending = [each for each in self._there(item) if each.body["pending"]]
        for each in pending[: change.post]:
            self._post(item, each)
        for account in item.accounts.values():
            moved = self._chance.randint(-5_000, 5_000) / 100
            account["balances"]["current"] = round(account["balances"]["current"] + moved, 2)
            account["balances"]["available"] = account["balances"]["current"]

    def _add(self, item: Item, **more: Any) -> None:
        item.position += 1
        name, primary, detailed = self._chance.choice(_MERCHANTS)
        day = date(2026, 9, 1) + timedelta(days=self._chance.randint(0, 80))
        id_ = uuid4().hex
        body = {
            "transaction_id": id_,
            "account_id": self._chance.choice(list(item.accounts)),
            "amount": self._amount(),
            "iso_currency_code": "USD",
            "unofficial_currency_code": None,
            "date": day.isoformat(),
            "authorized_date": (day - timedelta(days=1)).isoformat(),
            "authorized_datetime": None,
            "datetime": None,
            "name": f"{name.upper()} {self._chance.randint(1000, 9999)}",
            "merchant_name": name,
            "pending": self._chance.random() < 0.1,
            "pending_transaction_id": None,
            "payment_channel": "online",
            "personal_finance_category": _category(primary, detailed),
            "category": None,
            "category_id": None,
            "location": dict.fromkeys(_LOCATION),
            "payment_meta": dict.fromkeys(_PAYMENT_META),
            "account_owner": None,
            "transaction_code": None,
        }
        item.transactions[id_] = Transaction(body | more, item.position, item.position)

    def _post(self, item: Item, pending: Transaction) -> None:
        """Replace a pending transaction with another, of another id and perhaps another amount."""
        item.position += 1
        pending.removed = pending.changed = item.position
        self._add(
            item,
            **{name: pending.body[name] for name in ("account_id", "name", "merchant_name")},
            pending=False,
            pending_transaction_id=pending.body["transaction_id"],
        )

    def _there(self, item: Item) -> list[Transaction]:
        return [each for each in item.transactions.values() if not each.removed]

    def _some(self, item: Item, most: int) -> Sequence[Transaction]:
        there = self._there(item) if most else []
        return self._chance.sample(there, min(most, len(there)))

    def _amount(self) -> float:
        return self._chance.randint(-200_000, 50_000) / 100

    def sync(self, item: Item, cursor: str, count: int) -> str:
        """Return one page, as JSON: the differences between the time of the cursor and that of the
        update's first page, or an error if something has changed in between."""
        since, until, skip = _read_cursor(cursor, item)
        if skip and item.mutations:
            item.mutations -= 1
            self.change(item, Change(add=1, modify=1, remove=1))
        if skip and until != item.position:
            raise PlaidFault("TRANSACTIONS_ERROR", "TRANSACTIONS_SYNC_MUTATION_DURING_PAGINATION")
        until = item.position
        differing = sorted(
            (e for e in item.transactions.values() if e.changed > since), key=lambda e: e.changed
        )
        known = [each for each in differing if not each.removed or each.there_at(since)]
        pages = known if item.ready else []
        page, more = pages[skip : skip + count], len(pages) > skip + count
        place = (since, until, skip + count) if more else (until, 0, 0)
        next_cursor = _cursor(*place, item.cursors_of)
        lists = {
            "added": [e.text for e in page if not e.removed and not e.there_at(since)],
            "modified": [e.text for e in page if not e.removed and e.there_at(since)],
            "removed": [_removed(each) for each in page if each.removed],
        }
        rest = {
            "accounts": list(item.accounts.values()),
            "next_cursor": next_cursor if item.ready else "",
            "has_more": more,
            "request_id": uuid4().hex[:15],
            "transactions_update_status": (
                "HISTORICAL_UPDATE_COMPLETE" if item.ready else "NOT_READY"
            ),
        }
        texts = [f'"{name}": [{", ".join(each)}]' for name, each in lists.items()]
        return f"{{{', '.join(texts)}, {json.dumps(rest)[1:]}"

    def books(self) -> dict[str, Any]:
        """Return everything that a client should have received by now."""
        return {
            item.id: {
                "institution_id": item.institution_id,
                "accounts": item.accounts,
                "transactions": {
                    each.body["transaction_id"]: each.body for each in self._there(item)
                },
            }
            for item in self.items.values()
        }


def _category(primary: str, detailed: str) -> dict[str, str]:
    return {"primary": primary, "detailed": detailed, "confidence_level": "HIGH", "version": "v2"}


def _removed(each: Transaction) -> str:
    return json.dumps({name: each.body[name] for name in ("transaction_id", "account_id")})


def _cursor(since: int, until: int, skip: int, series: int) -> str:
    return urlsafe_b64encode(f"{since}:{until}:{skip}:{series}".encode()).decode()


def _read_cursor(cursor: str, item: Item) -> tuple[int, int, int]:
    if not cursor:
        return 0, item.position, 0
    try:
        since, until, skip, series = map(int, urlsafe_b64decode(cursor).split(b":"))
    except ValueError:
        raise PlaidFault("INVALID_INPUT", "INVALID_FIELD") from None
    if series != item.cursors_of:  # as in https://github.com/webhookdb/webhookdb/issues/646
        raise PlaidFault(
            "INVALID_REQUEST", "INVALID_FIELD", "cursor not associated with access_token"
        )
    return since, until, skip


def expiration(hours: int = 4) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


def webhook_body(item: Item, kind: str, code: str, **more: Any) -> dict[str, Any]:
    """Return a webhook's body: https://plaid.com/docs/api/items/#webhooks"""
    return {
        "webhook_type": kind,
        "webhook_code": code,
        "item_id": item.id,
        "environment": "sandbox",
    } | more
