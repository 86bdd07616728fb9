"""Synchronizes one item with its provider.

No transaction is open while the provider is called. All pages of an update are written in one
transaction, together with the cursor after it, so a process may die at any point: the update is
then read again from the previous cursor.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, events, item_health, metrics, repository, sync_writer
from bank_sync.clients.base import CursorRefused, ItemError, PaginationMutated
from bank_sync.clients.registry import SYNC, Client, Clients
from bank_sync.domain import Health, SyncPage, SyncUpdate
from bank_sync.models import Item, Sync
from bank_sync.row_security import TenantSessions, set_tenant
from common.contracts.banking import RunBankSync
from common.contracts.event import Event
from common.db import tenant_rows
from common.errors import Busy, Invalid, ProviderRejected, RateLimited, Upstream, describe
from common.messaging import outbox
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.security.encryption import SecretBox

log = get_logger(__name__)

# Beyond this the data changes too often while it is read; it may change less later.
_MOST_RESTARTS = 10
_RESTARTED_TOO_OFTEN_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 900.0
_SHORTEST_PAUSE_SECONDS = 1.0  # between two attempts at a page
_MOST_FAILURES = 2  # of one page, before the complete update is read again later
_SHORTEST_WAIT_SECONDS = 15.0  # before a rate-limited sync is retried
_AFTER_FAILURES = timedelta(hours=1)


@dataclass(frozen=True)
class SyncLease:
    """A sync that this worker holds by its `lease`."""

    id: str
    tenant: str
    item: str
    lease: str
    client: str
    access_token: str
    cursor: str
    begun: datetime


class Cancelled(Exception):
    """The sync is cancelled, or held by another worker."""


class Syncer:
    """`lease` is how long a sync may show no progress before another worker takes it over, `sweep`
    after how long an item is synced again without a webhook."""

    def __init__(
        self,
        tenancy: TenantSessions,
        clients: Clients,
        vault: SecretBox,
        *,
        lease: timedelta,
        sweep: timedelta,
    ) -> None:
        self._tenancy = tenancy
        self._clients = clients
        self._vault = vault
        self._lease = lease
        self._sweep = sweep

    async def run(self, event: Event[RunBankSync]) -> None:
        """Run a sync. Safe to run concurrently for the same sync and for the same item."""
        running = await self._begin(event)
        if running is None:
            return
        try:
            client = self._clients.find(running.tenant, running.client)
            await self._apply(running, await self._read(client, running))
        except Cancelled:
            await self._end(running, "cancelled", None)
        except ItemError as fault:
            await self._fail(running, fault)
        except Invalid as error:  # the accounts file does not name the client
            await self._release(running, str(error))
            raise Upstream(f"the sync waits: {error}") from error
        except RateLimited as error:  # by the provider or by our own limits: no failure of the bank
            await self._release(running, describe(error), failed=False)
            # Spread in time: more syncs wait than the limit allows now.
            seconds = max(error.retry_after, _SHORTEST_WAIT_SECONDS) * random.uniform(1, 3)  # noqa: S311
            raise Busy(f"the sync waits: {error}", seconds) from error
        except Exception as error:
            await self._release(running, describe(error), failed=isinstance(error, Upstream))
            raise

    async def give_up(
        self, work: UnitOfWork, event: Event[RunBankSync], error: BaseException
    ) -> None:
        """Fail a sync whose attempts are used up; the sweep or a caller requests the next one."""
        session = work.session
        await set_tenant(session, event.tenant)
        item = await repository.lock_item(session, event.data.item)
        sync = await repository.lock_sync(session, event.data.sync_id)
        if item is None or sync is None or sync.status not in {"queued", "running"}:
            return
        now = await tenant_rows.database_now(session)
        if sync.status == "running" and sync.lease_until is not None and sync.lease_until > now:
            return  # another worker runs it
        await self._finish(session, item, sync, now, "failed", describe(error))
        item.next_sync_at = now + min(self._sweep, _AFTER_FAILURES * random.uniform(0.5, 1.5))  # noqa: S311

    async def _begin(self, event: Event[RunBankSync]) -> SyncLease | None:
        """Claim the sync for this worker; None if there is nothing to run."""
        async with self._tenancy.begin(event.tenant) as session:
            item = await repository.lock_item(session, event.data.item)
            sync = await repository.lock_sync(session, event.data.sync_id)
            if item is None or sync is None:
                return None
            now = await tenant_rows.database_now(session)
            if sync.status == "running":
                if sync.lease_until is not None and sync.lease_until > now:
                    left = (sync.lease_until - now).total_seconds()
                    raise Busy("another worker is synchronizing it", left + 1)
            elif sync.status != "queued":
                return None
            elif not await self._take_over_stale_sync(session, item, now):
                return None  # the worker of the running sync enqueues this one at its end
            if not item.readable:
                sync.status, sync.finished_at = "cancelled", now
                return None
            if sync.cancel_requested:  # cancelled while it waited for another attempt
                await self._finish(session, item, sync, now, "cancelled", None)
                return None
            sync.status = "running"
            sync.lease = uuid4().hex
            sync.lease_until = now + self._lease
            sync.started_at = sync.started_at or now
            sync.attempts += 1
            sync.error = None
            sync.pages = 0
            token = self._vault.decrypt(item.access_token)
            return SyncLease(
                sync.id, item.tenant, item.id, sync.lease, item.client, token, item.cursor, now
            )

    async def _take_over_stale_sync(self, session: AsyncSession, item: Item, now: datetime) -> bool:
        """Return whether no other sync of the item is running; one whose worker died is ended."""
        other = await repository.lock_running_sync(session, item.id)
        if other is None:
            return True
        if other.lease_until is not None and other.lease_until > now:
            return False
        other.status, other.finished_at = "failed", now
        other.error = f"{other.error or 'its worker died'}; the next one took over"
        await session.flush()
        return True

    async def _read(self, client: Client, running: SyncLease) -> SyncUpdate:
        """Return all pages, merged. If the provider refuses the cursor, everything is read again,
        once."""
        try:
            return await self._read_since(client, running, running.cursor)
        except CursorRefused as error:
            if not running.cursor:
                raise
            log.warning("cursor_refused_reading_all", item=running.item, error=str(error))
            update = await self._read_since(client, running, "")
            update.whole = True
            return update

    async def _read_since(self, client: Client, running: SyncLease, since: str) -> SyncUpdate:
        """Return all pages since the cursor; reading restarts from the first page when the data
        changes."""
        for restarts in range(_MOST_RESTARTS + 1):
            update, cursor = SyncUpdate(), since
            try:
                while True:
                    page = await self._page(client, running, cursor, update, restarts)
                    update.take(page)
                    cursor = page.next_cursor
                    if not page.has_more:
                        update.cursor = cursor
                        return update
                    await self._progress(running, update, restarts)
            except PaginationMutated:
                metrics.restarts.inc()
                await self._progress(running, update, restarts + 1)
        raise RateLimited("the data keeps changing while it is read", _RESTARTED_TOO_OFTEN_SECONDS)

    async def _page(
        self, client: Client, running: SyncLease, cursor: str, update: SyncUpdate, restarts: int
    ) -> SyncPage:
        """Return one page. Earlier pages are retained if it has to wait, or fails once or twice."""
        waited, failures = 0.0, 0
        while True:
            try:
                async with client.calling(SYNC, running.item):
                    return await client.api.sync(running.access_token, cursor)
            except (RateLimited, Upstream) as error:
                if (
                    not update.pages
                    or waited > _LONGEST_WAIT_SECONDS
                    or isinstance(error, ProviderRejected)
                ):
                    raise
                soon = _SHORTEST_PAUSE_SECONDS
                if isinstance(error, RateLimited):
                    soon = max(error.retry_after, soon)
                elif (failures := failures + 1) > _MOST_FAILURES:
                    raise
                seconds = min(soon, self._lease.total_seconds() / 2)
                await self._progress(running, update, restarts)
                await asyncio.sleep(seconds)
                waited += seconds

    async def _progress(self, running: SyncLease, update: SyncUpdate, restarts: int) -> None:
        """Extend the lease and record progress. Raises `Cancelled` when cancellation was requested,
        or another worker holds the sync by now."""
        async with self._tenancy.begin(running.tenant) as session:
            progress = {
                "pages": update.pages,
                "added": update.added,
                "modified": update.modified,
                "removed": update.removed,
                "restarts": restarts,
            }
            goes_on = await repository.record_progress(
                session, running.id, running.lease, self._lease, progress
            )
        if not goes_on:
            raise Cancelled

    async def _apply(self, running: SyncLease, update: SyncUpdate) -> None:
        async with self._tenancy.begin(running.tenant) as session:
            held = await self._lock_if_owner(session, running)
            if held is None:
                return
            item, sync = held
            now = await tenant_rows.database_now(session)
            if sync.cancel_requested:
                await self._finish(session, item, sync, now, "cancelled", None)
                return
            applied = await sync_writer.apply(session, item, update, now, read_at=running.begun)
            item.cursor = update.cursor
            item.complete = update.complete
            item.synced_at, item.read_at = now, running.begun
            if update.whole:
                item.resynced_at = now
            sync.pages, sync.added = update.pages, applied.added
            sync.modified, sync.removed = applied.modified, applied.removed
            outgoing = list(applied.events)
            # A report received during the read is newer than the read.
            warning = Health(item.warning) if item.warning is not None else None
            health = domain.health_after_sync(Health(item.health), warning)
            if health is not Health(item.health) and item.health_at <= running.begun:
                item.health, item.health_reason = health, None
                item.health_until = item.warned_until
                item.version += 1
                outgoing.append(events.item_changed(item, "bank_item.health_changed"))
            await outbox.enqueue(session, outgoing)
            await self._finish(session, item, sync, now, "done", None)
        metrics.transactions.labels("added").inc(applied.added)
        metrics.transactions.labels("modified").inc(applied.modified)
        metrics.transactions.labels("removed").inc(applied.removed)

    async def _fail(self, running: SyncLease, fault: ItemError) -> None:
        """Fail the sync: the provider reports an error of the item, which no retry fixes."""
        async with self._tenancy.begin(running.tenant) as session:
            held = await self._lock_if_owner(session, running)
            if held is None:
                return
            item, sync = held
            now = await tenant_rows.database_now(session)
            await self._finish(session, item, sync, now, "failed", str(fault))
            health = domain.health_of_error(fault.code)
            # If the item was linked again meanwhile, the error concerns the former token.
            if (
                health is not None
                and self._vault.decrypt(item.access_token) == running.access_token
            ):
                await item_health.apply_health_report(
                    session, item, health, running.begun, fault.code
                )

    async def _end(self, running: SyncLease, status: str, error: str | None) -> None:
        async with self._tenancy.begin(running.tenant) as session:
            held = await self._lock_if_owner(session, running)
            if held is not None:
                item, sync = held
                now = await tenant_rows.database_now(session)
                await self._finish(session, item, sync, now, status, error)

    async def _release(self, running: SyncLease, error: str, *, failed: bool = True) -> None:
        """Release the sync, to be retried later by the worker that receives the message."""
        async with self._tenancy.begin(running.tenant) as session:
            held = await self._lock_if_owner(session, running)
            if held is not None:
                item, sync = held
                now = await tenant_rows.database_now(session)
                sync.lease_until = sync.requested_at = now
                sync.error = error
                if failed:
                    await repository.count_outcome(session, item, now, error)

    async def _lock_if_owner(
        self, session: AsyncSession, running: SyncLease
    ) -> tuple[Item, Sync] | None:
        """Return both rows, locked, while the sync is this worker's; otherwise None."""
        item = await repository.lock_item(session, running.item)
        sync = await repository.lock_sync(session, running.id)
        if item is None or sync is None:
            return None
        if sync.lease != running.lease or sync.status != "running":
            log.info("sync_taken_over", sync=running.id)
            return None
        return item, sync

    async def _finish(
        self,
        session: AsyncSession,
        item: Item,
        sync: Sync,
        now: datetime,
        status: str,
        error: str | None,
    ) -> None:
        sync.status, sync.error, sync.finished_at, sync.lease = status, error, now, None
        if status != "done":  # what was read was not written
            sync.added = sync.modified = sync.removed = 0
        if status != "cancelled":
            item.next_sync_at = now + self._sweep
            await repository.count_outcome(session, item, now, error)
        metrics.syncs.labels(status).inc()
        await session.flush()
        await repository.enqueue_waiting(session, item.tenant, item.id, now)
