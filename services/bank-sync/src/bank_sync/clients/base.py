"""Interface of a provider of bank data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from bank_sync.domain import Account, SyncPage
from common.errors import ProviderRejected


class ItemError(ProviderRejected):
    """The provider reports an error of the item; `code` is the provider's error code."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message, status)
        self.code = code


class CursorRefused(ItemError):
    """The provider does not know the cursor (any more): everything has to be read again."""


class InstitutionError(ProviderRejected):
    """One bank fails, not the provider; it may recover later."""


class PaginationMutated(ProviderRejected):
    """The data changed between two pages: the update has to be read again from its first cursor."""


@dataclass(frozen=True)
class LinkedItem:
    access_token: str
    item_id: str


@dataclass(frozen=True)
class LinkToken:
    link_token: str
    expires_at: datetime


@dataclass(frozen=True)
class LinkTokenRequest:
    """`access_token` selects update mode: the item is repaired or, with `choose_accounts`, shares
    further accounts."""

    user: str
    webhook: str | None
    language: str
    countries: Sequence[str]
    redirect_uri: str | None
    access_token: str | None = None
    choose_accounts: bool = False


@dataclass(frozen=True)
class InstitutionInfo:
    institution_id: str
    name: str
    url: str | None
    oauth: bool


class BankClient(Protocol):
    """API of one client at the provider. Every call raises what `common.clients.json_api.call`
    raises, and `ItemError`."""

    async def sync(self, access_token: str, cursor: str) -> SyncPage:
        """Return the next page of changes since the cursor. Raises `PaginationMutated`."""

    async def balances(self, access_token: str) -> Sequence[Account]:
        """Return the bank's current balances: slow, and often rate-limited."""

    async def link_token(self, wish: LinkTokenRequest) -> LinkToken: ...

    async def exchange(self, public_token: str) -> LinkedItem: ...

    async def institution_of(self, access_token: str) -> str | None:
        """Return the id of the item's institution."""

    async def institution(self, institution_id: str, countries: Sequence[str]) -> InstitutionInfo:
        """Return an institution. Raises `ItemError` for an unknown one."""

    async def remove(self, access_token: str) -> None:
        """Remove the item. An item that no longer exists is no error."""
