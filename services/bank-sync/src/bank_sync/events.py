"""The events that this service publishes. All events of one item carry the same correlation id."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from bank_sync.domain import SyncUpdate
from bank_sync.models import Account, Item
from common.contracts.banking import (
    BalanceUpdated,
    BankItemChanged,
    RemoveBankItem,
    RunBankSync,
    TransactionsSynced,
)
from common.contracts.event import Event, Payload, derived_id
from common.messaging.events import new_event

SOURCE = "/bank-sync"


def sync_due(tenant: str, item: str, sync: str, now: datetime) -> Event[Any]:
    id_ = derived_id("bank_sync", sync, now.isoformat())
    return _of(tenant, item, id_, "bank_sync.run", RunBankSync(sync_id=sync, item=item))


def removal_due(item: Item, now: datetime) -> Event[Any]:
    id_ = derived_id("bank_removal", item.id, now.isoformat())
    data = RemoveBankItem(item=item.id)
    return _of(item.tenant, item.id, id_, "bank_item.remove", data)


def item_changed(item: Item, type_: str) -> Event[Any]:
    id_ = derived_id("bank_item", item.id, type_, str(item.version))
    data = BankItemChanged(
        item=item.id,
        item_id=item.item_id,
        user=item.user,
        institution_id=item.institution_id,
        health=item.health,
        reason=item.health_reason,
        until=item.health_until,
    )
    return _of(item.tenant, item.id, id_, type_, data, sequence=item.version)


def balance_updated(item: Item, account: Account, now: datetime) -> Event[Any]:
    id_ = derived_id("balance", account.id, now.isoformat())
    data = BalanceUpdated(
        item=item.id,
        user=item.user,
        account=account.id,
        available=account.available,
        current=account.current,
        limit=account.limit,
        currency=account.currency,
        unofficial_currency=account.unofficial_currency,
    )
    return _of(item.tenant, item.id, id_, "balance.updated", data, subject=account.id)


def transactions_synced(
    item: Item, update: SyncUpdate, now: datetime, *, added: int, modified: int, removed: int
) -> Event[Any]:
    days: list[date] = [each.date for each in update.there.values()]
    data = TransactionsSynced(
        item=item.id,
        user=item.user,
        added=added,
        modified=modified,
        removed=removed,
        first=min(days, default=None),
        last=max(days, default=None),
        historical_update_complete=update.complete,
    )
    id_ = derived_id("transactions synced", item.id, update.cursor, now.isoformat())
    return _of(item.tenant, item.id, id_, "transactions.synced", data)


def _of(
    tenant: str,
    item: str,
    id_: str,
    type_: str,
    data: Payload,
    *,
    subject: str | None = None,
    sequence: int | None = None,
) -> Event[Any]:
    return new_event(
        id=id_,
        type=type_,
        source=SOURCE,
        subject=subject or item,
        tenant=tenant,
        correlationid=item,
        sequence=sequence,
        data=data,
    )
