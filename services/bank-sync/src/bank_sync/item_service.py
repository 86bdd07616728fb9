"""Life cycle of bank items: link tokens, linking, balances on demand, and removal."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, events, item_health, models, repository, sync_writer
from bank_sync.clients.base import ItemError, LinkToken, LinkTokenRequest
from bank_sync.clients.registry import BALANCE, OTHER, Client, Clients
from bank_sync.domain import Health
from bank_sync.models import Item
from bank_sync.row_security import TenantSessions
from bank_sync.schemas import NewItem, NewLinkToken, UpdateLinkToken
from common.db import tenant_rows
from common.errors import Conflict, Invalid, PaybusError, RateLimited, Upstream, describe
from common.messaging import outbox
from common.observability.logging import get_logger
from common.security.encryption import SecretBox

log = get_logger(__name__)

# A fallback in case the first sync never runs.
_FIRST_SWEEP = timedelta(hours=1)


class ItemService:
    """Operations on items. No transaction is open while the provider is called."""

    def __init__(
        self,
        tenancy: TenantSessions,
        clients: Clients,
        vault: SecretBox,
        *,
        balance_ttl: timedelta = timedelta(0),
    ) -> None:
        self._tenancy = tenancy
        self._clients = clients
        self._vault = vault
        self._balance_ttl = balance_ttl

    async def link_token(self, tenant: str, request: NewLinkToken) -> LinkToken:
        client = self._clients.find(tenant, request.client)
        wish = LinkTokenRequest(
            user=request.user,
            webhook=_text(client.options.webhook),
            language=request.language,
            countries=request.countries,
            redirect_uri=_text(request.redirect_uri),
        )
        return await _link(client, wish)

    async def update_token(self, item: Item, request: UpdateLinkToken) -> LinkToken:
        client = self._clients.find(item.tenant, item.client)
        wish = LinkTokenRequest(
            user=item.user,
            webhook=_text(client.options.webhook),
            language=request.language,
            countries=request.countries,
            redirect_uri=_text(request.redirect_uri),
            access_token=self._token(item),
            choose_accounts=request.choose_accounts,
        )
        return await _link(client, wish)

    async def link(self, tenant: str, request: NewItem) -> Item:
        """Exchange the public token, and request the first sync.

        The access token is saved before any further call, because it cannot be requested again.
        """
        client = self._clients.find(tenant, request.client)
        try:
            async with client.calling(OTHER):
                linked = await client.api.exchange(request.public_token.get_secret_value())
        except ItemError as fault:
            raise Invalid(f"{fault}: a public token can be used once, within 30 minutes") from None
        sealed = self._vault.encrypt(linked.access_token)
        async with self._tenancy.begin(tenant) as session:
            id_ = models.item_id(tenant, linked.item_id)
            now = await tenant_rows.database_now(session)
            # The same login linked again has a new token; deleted data is read from the beginning.
            either = {
                "client": request.client,
                "user": request.user,
                "access_token": sealed,
                "health_at": now,
                "next_sync_at": now + _FIRST_SWEEP,
            }
            new = {"id": id_, "tenant": tenant, "item_id": linked.item_id}
            again = {
                "health": "healthy",
                "health_reason": None,
                "health_until": None,
                "warning": None,
                "warned_until": None,
                "removing_at": None,
            }
            item = await repository.link_item(session, new | either, again | either)
            await outbox.enqueue(session, [events.item_changed(item, "bank_item.linked")])
            await repository.request_sync(session, item, "linked", now)
        await self._learn_institution(client, item, linked.access_token, request.countries)
        return item

    async def _learn_institution(
        self, client: Client, item: Item, access_token: str, countries: list[str]
    ) -> None:
        """Store the item's institution. It is optional: a failure is only logged."""
        try:
            async with client.calling(OTHER, item.id):
                institution_id = await client.api.institution_of(access_token)
            if institution_id is None:
                return
            async with client.calling(OTHER):
                found = await client.api.institution(institution_id, countries)
        except PaybusError as error:
            log.warning("institution_lookup_failed", item=item.id, error=describe(error))
            return
        async with self._tenancy.begin(item.tenant) as session:
            values = {
                "id": models.institution_id(item.tenant, institution_id),
                "tenant": item.tenant,
                "institution_id": institution_id,
                "name": found.name,
                "url": found.url,
                "oauth": found.oauth,
            }
            await repository.save_institution(session, values)
            locked = await repository.lock_item(session, item.id)
            if locked is not None:
                locked.institution_id = institution_id
        item.institution_id = institution_id

    async def balances(self, item: Item, max_age: timedelta | None) -> bool:
        """Refresh the item's balances from the bank, unless they are at most `max_age` old (None:
        `balance_ttl`). Return False if the bank cannot be queried; the last known balances stay."""
        ttl = self._balance_ttl if max_age is None else max_age
        async with self._tenancy.begin(item.tenant) as session:
            if await self._are_fresh(session, item, ttl):
                return True
            begun = await tenant_rows.database_now(session)
            before = await self._accounts(session, item)
        if not item.readable:
            return False
        client = self._clients.find(item.tenant, item.client)
        token = self._token(item)
        try:
            async with client.calling(BALANCE, item.id):
                said = await client.api.balances(token)
        except ItemError as fault:
            await self._apply_item_error(item, token, fault.code, begun)
            return False
        except (RateLimited, Upstream) as error:
            log.warning("bank_balance_refresh_failed", item=item.id, error=describe(error))
            return False
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is None or not locked.readable:
                return False
            now = await tenant_rows.database_now(session)
            # The user may have revoked an account meanwhile, which deletes it.
            revoked = before - await self._accounts(session, item)
            by_id = {models.account_id(item.id, each.account_id): each for each in said}
            kept = [each for id_, each in by_id.items() if id_ not in revoked]
            changed = await sync_writer.write_accounts(session, locked, kept, now, live=True)
            for row in await repository.accounts_of(session, item.id):
                row.closed = row.id not in by_id
            outgoing = [events.balance_updated(locked, each, now) for each in changed]
            await outbox.enqueue(session, outgoing)
        return True

    async def _accounts(self, session: AsyncSession, item: Item) -> set[str]:
        return {row.id for row in await repository.accounts_of(session, item.id)}

    async def _are_fresh(self, session: AsyncSession, item: Item, ttl: timedelta) -> bool:
        now = await tenant_rows.database_now(session)
        read_at = await repository.balances_read_at(session, item.id)
        return bool(read_at) and all(at is not None and at > now - ttl for at in read_at)

    async def _apply_item_error(self, item: Item, token: str, code: str, at: datetime) -> None:
        """Apply an error of the item that the provider returned to a call with this token."""
        if (health := domain.health_of_error(code)) is None:
            return
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is not None and self._vault.decrypt(locked.access_token) == token:
                await item_health.apply_health_report(session, locked, health, at, code)

    async def confirm_repaired(self, item: Item) -> str:
        """Record that the user completed Link's update mode. Return the id of the next sync."""
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is None or locked.removing_at is not None:
                raise Conflict("the item was removed")
            now = await tenant_rows.database_now(session)
            await item_health.apply_health_report(
                session, locked, Health.HEALTHY, now, None, repaired=True
            )
            return await repository.request_sync(session, locked, "repaired", now)

    async def remove(self, item: Item) -> bool:
        """Delete the item's data immediately. Return whether the provider has removed the item,
        too; otherwise a scheduled job requests that again."""
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is not None:
                locked.removing_at = locked.removing_at or await tenant_rows.database_now(session)
                locked.next_sync_at = None
                locked.cursor, locked.complete = "", False
                await repository.delete_data(session, item.id)
        return await self.remove_at_provider(item.tenant, item.id)

    async def remove_at_provider(self, tenant: str, id_: str) -> bool:
        async with self._tenancy.begin(tenant) as session:
            item = await session.get(Item, id_)
        if item is None or item.removing_at is None:
            return True
        token = ""
        try:
            if item.access_token:
                token = self._token(item)
                client = self._clients.find(tenant, item.client)
                async with client.calling(OTHER, item.id):
                    await client.api.remove(token)
        except PaybusError as error:
            log.warning("bank_item_removal_failed", item=id_, error=describe(error))
            return False
        async with self._tenancy.begin(tenant) as session:
            locked = await repository.lock_item(session, id_)
            linked_again = locked is not None and (
                locked.removing_at is None
                or (bool(token) and self._vault.decrypt(locked.access_token) != token)
            )
            if locked is not None and not linked_again:
                locked.version += 1
                await outbox.enqueue(session, [events.item_changed(locked, "bank_item.removed")])
                await repository.delete_data(session, id_)
                await session.delete(locked)
        return True

    def _token(self, item: Item) -> str:
        if not item.access_token:
            raise Conflict("its access token was deleted: link the bank again")
        return self._vault.decrypt(item.access_token)


async def _link(client: Client, wish: LinkTokenRequest) -> LinkToken:
    try:
        async with client.calling(OTHER):
            return await client.api.link_token(wish)
    except ItemError as fault:
        raise Invalid(str(fault)) from None


def _text(url: object) -> str | None:
    return None if url is None else str(url)
