"""What Paybus wants of a provider of bank data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from bank_sync.domain import Account, SyncPage
from common.errors import ProviderRejected


class ItemError(ProviderRejected):
    """The provider says that something is wrong with the item; `code` is its word for it."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message, status)
        self.code = code


class InstitutionError(ProviderRejected):
    """One bank is in trouble, not the provider; it may be well later."""


class PaginationMutated(ProviderRejected):
    """The data changed between two pages: the update begins anew, from its first cursor."""


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
    """`access_token` is for update mode: the item is mended, or with `choose_accounts` shares
    others."""

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
    """Of one client at the provider. Every call raises what `common.clients.json_api.call`
    raises, and `ItemError`."""

    async def sync(self, access_token: str, cursor: str) -> SyncPage:
        """The next page of what changed since the cursor. Raises `PaginationMutated`."""

    async def balances(self, access_token: str) -> Sequence[Account]:
        """As the bank says now: slow, and often limited."""

    async def link_token(self, wish: LinkTokenRequest) -> LinkToken: ...

    async def exchange(self, public_token: str) -> LinkedItem: ...

    async def institution_of(self, access_token: str) -> str | None:
        """The id of the item's institution."""

    async def institution(self, institution_id: str, countries: Sequence[str]) -> InstitutionInfo:
        """Raises `ItemError` for one that is not known."""

    async def remove(self, access_token: str) -> None:
        """Of an item that is gone already nothing is left to remove."""
