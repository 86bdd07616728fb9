"""Items come and go: link tokens, the exchange of public tokens, balances on demand, removal."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import applying, domain, events, models, news, repository
from bank_sync.accounts import BALANCE, OTHER, Client, Clients
from bank_sync.clients import ItemFault, LinkToken, LinkWish
from bank_sync.domain import Health
from bank_sync.models import Account, Institution, Item
from bank_sync.requests import NewItem, NewLinkToken, UpdateLinkToken
from bank_sync.tenancy import Tenancy
from common import rows
from common.crypto import Vault
from common.errors import Conflict, Invalid, PaybusError, RateLimited, Upstream
from common.logs import get_logger
from common.messaging import outbox
from common.messaging.connection import describe

log = get_logger(__name__)

# Should the first sync not come to pass.
_FIRST_SWEEP = timedelta(hours=1)


class Desk:
    """No transaction is open while the provider is called."""

    def __init__(self, tenancy: Tenancy, clients: Clients, vault: Vault) -> None:
        self._tenancy = tenancy
        self._clients = clients
        self._vault = vault

    async def link_token(self, tenant: str, wanted: NewLinkToken) -> LinkToken:
        client = self._clients.find(tenant, wanted.client)
        wish = LinkWish(
            user=wanted.user,
            webhook=_text(client.options.webhook),
            language=wanted.language,
            countries=wanted.countries,
            redirect_uri=_text(wanted.redirect_uri),
        )
        return await _link(client, wish)

    async def update_token(self, item: Item, wanted: UpdateLinkToken) -> LinkToken:
        client = self._clients.find(item.tenant, item.client)
        wish = LinkWish(
            user=item.user,
            webhook=_text(client.options.webhook),
            language=wanted.language,
            countries=wanted.countries,
            redirect_uri=_text(wanted.redirect_uri),
            access_token=self._token(item),
            choose_accounts=wanted.choose_accounts,
        )
        return await _link(client, wish)

    async def link(self, tenant: str, wanted: NewItem) -> Item:
        """Exchange the public token and sync for the first time.

        The access token is kept before anything else is asked: nobody could ask for it again.
        """
        client = self._clients.find(tenant, wanted.client)
        try:
            async with client.calling(OTHER):
                linked = await client.api.exchange(wanted.public_token.get_secret_value())
        except ItemFault as fault:
            raise Invalid(f"{fault}: a public token is good once, for 30 minutes") from None
        sealed = self._vault.seal(linked.access_token)
        async with self._tenancy.begin(tenant) as session:
            id_ = models.item_id(tenant, linked.item_id)
            now = await rows.clock(session)
            adding = insert(Item).values(
                id=id_,
                tenant=tenant,
                client=wanted.client,
                item_id=linked.item_id,
                user=wanted.user,
                access_token=sealed,
                health_at=now,
                next_sync_at=now + _FIRST_SWEEP,
            )
            # The same login, linked again: its token is another one now, and what was deleted of it
            # is read from the beginning.
            await session.execute(
                adding.on_conflict_do_update(
                    index_elements=[Item.id],
                    set_={
                        "access_token": sealed,
                        "client": wanted.client,
                        "user": wanted.user,
                        "health": "healthy",
                        "health_reason": None,
                        "health_until": None,
                        "health_at": now,
                        "warning": None,
                        "warned_until": None,
                        "version": Item.version + 1,
                        "next_sync_at": now + _FIRST_SWEEP,
                        "removing_at": None,
                    },
                )
            )
            item = await repository.lock_item(session, id_)
            assert item is not None
            await outbox.write(session, [events.item_changed(item, "bank_item.linked")])
            await repository.order_sync(session, item, "linked", now)
        await self._learn_institution(client, item, linked.access_token, wanted.countries)
        return item

    async def _learn_institution(
        self, client: Client, item: Item, access_token: str, countries: list[str]
    ) -> None:
        """Worth having, and nothing fails without it."""
        try:
            async with client.calling(OTHER, item.id):
                institution_id = await client.api.institution_of(access_token)
            if institution_id is None:
                return
            async with client.calling(OTHER):
                found = await client.api.institution(institution_id, countries)
        except PaybusError as error:
            log.warning("the item's institution is not known", item=item.id, error=describe(error))
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
            row = insert(Institution).values(values)
            await session.execute(
                row.on_conflict_do_update(
                    index_elements=[Institution.id],
                    set_={"name": found.name, "url": found.url, "oauth": found.oauth},
                )
            )
            locked = await repository.lock_item(session, item.id)
            if locked is not None:
                locked.institution_id = institution_id
        item.institution_id = institution_id

    async def balances(self, item: Item, ttl: timedelta) -> bool:
        """Have the item's balances read from the bank, unless they are fresh. Returns whether they
        are as fresh as was asked for: when the bank can't be asked, the last known ones stand."""
        async with self._tenancy.begin(item.tenant) as session:
            if await self._are_fresh(session, item, ttl):
                return True
            begun = await rows.clock(session)
        if not item.readable:
            return False
        client = self._clients.find(item.tenant, item.client)
        token = self._token(item)
        try:
            async with client.calling(BALANCE, item.id):
                said = await client.api.balances(token)
        except ItemFault as fault:
            await self._told(item, token, fault.code, begun)
            return False
        except (RateLimited, Upstream) as error:
            log.warning("the bank was not asked", item=item.id, error=describe(error))
            return False
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is None or not locked.readable:
                return False
            now = await rows.clock(session)
            changed = await applying.write_accounts(session, locked, said, now, live=True)
            listed = {models.account_id(item.id, each.account_id) for each in said}
            there = await session.scalars(select(Account).where(Account.item == item.id))
            for row in there.all():
                row.closed = row.id not in listed
            told = [events.balance_updated(locked, each, now) for each in changed]
            await outbox.write(session, told)
        return True

    async def _are_fresh(self, session: AsyncSession, item: Item, ttl: timedelta) -> bool:
        now = await rows.clock(session)
        query = select(Account.live_at).where(Account.item == item.id, ~Account.closed)
        read_at = (await session.scalars(query)).all()
        return bool(read_at) and all(at is not None and at > now - ttl for at in read_at)

    async def _told(self, item: Item, token: str, code: str, at: datetime) -> None:
        """What the provider said of the item when it was asked by this token."""
        if (health := domain.found(code)) is None:
            return
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is not None and self._vault.open(locked.access_token) == token:
                await news.take(session, locked, health, at, code)

    async def repaired(self, item: Item) -> str:
        """The user has passed Link's update mode. Returns the id of the sync that follows."""
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is None or locked.removing_at is not None:
                raise Conflict("the item is gone")
            now = await rows.clock(session)
            await news.take(session, locked, Health.HEALTHY, now, None, repaired=True)
            return await repository.order_sync(session, locked, "repaired", now)

    async def remove(self, item: Item) -> bool:
        """Its data is gone at once. Returns whether the provider has let go of it, too; if not, it
        is asked again by the clock."""
        async with self._tenancy.begin(item.tenant) as session:
            locked = await repository.lock_item(session, item.id)
            if locked is not None:
                locked.removing_at = locked.removing_at or await rows.clock(session)
                locked.next_sync_at = None
                locked.cursor, locked.complete = "", False
                await repository.delete_data(session, item.id)
        return await self.try_to_remove(item.tenant, item.id)

    async def try_to_remove(self, tenant: str, id_: str) -> bool:
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
            log.warning("the provider keeps the item", item=id_, error=describe(error))
            return False
        async with self._tenancy.begin(tenant) as session:
            locked = await repository.lock_item(session, id_)
            linked_again = locked is not None and (
                locked.removing_at is None
                or (bool(token) and self._vault.open(locked.access_token) != token)
            )
            if locked is not None and not linked_again:
                locked.version += 1
                await outbox.write(session, [events.item_changed(locked, "bank_item.removed")])
                await repository.delete_data(session, id_)
                await session.delete(locked)
        return True

    def _token(self, item: Item) -> str:
        if not item.access_token:
            raise Conflict("its access token is gone: link the bank anew")
        return self._vault.open(item.access_token)


async def _link(client: Client, wish: LinkWish) -> LinkToken:
    try:
        async with client.calling(OTHER):
            return await client.api.link_token(wish)
    except ItemFault as fault:
        raise Invalid(str(fault)) from None


def _text(url: object) -> str | None:
    return None if url is None else str(url)
