"""The services' own checks of the files that their Secrets contain: what they refuse is refused
before it is in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
from sqlalchemy.ext.asyncio import create_async_engine

from bank_sync.clients.rate_limiter import ProviderRateLimiter
from bank_sync.clients.registry import Clients
from common.clients.accounts_file import AccountsInvalid
from common.db.database import sessions_of
from common.observability.redaction import Redactor
from common.settings import key_set
from payouts.providers import registry as payouts
from subscription.providers import registry as subscription
from webhook_gateway.providers.endpoint_registry import EndpointRegistry

# Without one of these a service has no accounts, and starts.
OPTIONAL: Final = frozenset({"accounts.toml", "payout-accounts.toml", "bank-accounts.toml"})


def fault_of(path: Path) -> str | None:
    """Return why the service that reads the file would refuse it."""
    try:
        path.stat()
    except FileNotFoundError as error:
        return None if path.name in OPTIONAL else f"{path}: {error.strerror}"
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        _CHECKS[path.name](path)
    except (AccountsInvalid, ValueError, OSError) as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    return None


def _endpoints(path: Path) -> None:
    registry = EndpointRegistry(path, Redactor())
    if registry.not_served:
        raise AccountsInvalid(f"{path}: {', '.join(registry.not_served)} has no secret")


def _accounts(path: Path) -> None:
    subscription.Accounts(path, httpx.AsyncClient(), Redactor())


def _payout_accounts(path: Path) -> None:
    # Neither this engine nor the client ever connects.
    sessions = sessions_of(create_async_engine("postgresql+psycopg://"))
    payouts.Accounts(path, httpx.AsyncClient(), sessions, Redactor())


def _bank_accounts(path: Path) -> None:
    sessions = sessions_of(create_async_engine("postgresql+psycopg://"))
    with ExitStack() as closing:
        limiter = ProviderRateLimiter(sessions, None)
        Clients(path, limiter, Redactor(), timeout=1, closing=closing.callback)


def _jwks(path: Path) -> None:
    key_set(path)


_CHECKS: Final[Mapping[str, Callable[[Path], None]]] = {
    "endpoints.toml": _endpoints,
    "accounts.toml": _accounts,
    "payout-accounts.toml": _payout_accounts,
    "bank-accounts.toml": _bank_accounts,
    "jwks.json": _jwks,
}
