"""The accounts file: the provider accounts at which a tenant's checkouts are started.

[[account]]
provider = "fapshi"
tenant = "shop"
options = { api_user = "...", api_key = "..." }

`name` is that of the gateway's endpoint for the same account, which receives its payments'
notifications and queries their status.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from common.clients import accounts_file
from common.clients.accounts_file import Account, AccountsInvalid, options_of
from common.errors import Invalid, ProviderRejected, RateLimited, Upstream
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard, ignore
from common.resilience.circuit_store import Circuits
from common.settings import secrets_of
from subscription.providers.base import CheckoutClient
from subscription.providers.fapshi import Fapshi
from subscription.providers.flutterwave import Flutterwave
from subscription.providers.mtn_momo import MtnMomo
from subscription.providers.orange_money import OrangeMoney
from subscription.providers.stripe import Stripe
from subscription.providers.stripe_billing import StripeBilling
from subscription.schemas.checkout import NewCheckout

CLIENTS: Mapping[str, type[CheckoutClient]] = {
    "fapshi": Fapshi,
    "flutterwave": Flutterwave,
    "mtn-momo": MtnMomo,
    "orange-money": OrangeMoney,
    "stripe": Stripe,
}


@dataclass(frozen=True)
class Billing:
    """Stripe Billing of one account, and the guard of its calls."""

    api: StripeBilling
    gate: CallGuard

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Self]:
        """Guard a call that changes nothing. Raise the errors of the guard and the call, with
        messages for the API's callers."""
        try:
            async with self.gate.admit(), self.gate.call():
                yield self
        except ProviderRejected as error:
            raise ProviderRejected(f"stripe {error}", error.status) from error
        except RateLimited as error:
            raise RateLimited(f"stripe: {error}", error.retry_after) from error
        except Upstream as error:
            raise Upstream(f"stripe {error}") from error


class Accounts:
    def __init__(
        self,
        path: Path | None,
        http: httpx.AsyncClient,
        redact: Redactor,
        *,
        circuits: Circuits | None = None,
    ) -> None:
        """Read the accounts file; without a file there are no accounts. Raise `AccountsInvalid`."""
        self._clients: dict[tuple[str, str, str], CheckoutClient] = {}
        self._gates: dict[tuple[str, str, str], CallGuard] = {}
        self._billing: dict[tuple[str, str], Billing] = {}
        for account in accounts_file.read_any(path, "account", Account):
            kind = CLIENTS.get(account.provider)
            if kind is None:
                known = ", ".join(sorted(CLIENTS))
                raise AccountsInvalid(
                    f"{account.provider!r} is not a checkout provider; these are: {known}"
                )
            options = options_of(account, kind.options_model)
            redact.learn(secrets_of(options))
            client = kind(options, http)
            self._clients[account.tenant, account.provider, account.name] = client
            gate = CallGuard(
                f"{account.tenant}/{account.path}",
                label=account.path,
                max_concurrency=client.options.max_concurrency,
                quota=None,
                open_seconds=client.options.circuit_reset_seconds,
                on_change=circuits.listener(account.tenant, account.path) if circuits else ignore,
            )
            self._gates[account.tenant, account.provider, account.name] = gate
            if isinstance(client, Stripe):
                self._billing[account.tenant, account.name] = Billing(client.billing, gate)

    def billing(self, tenant: str, account: str) -> Billing:
        """Return Stripe Billing of the account. Raise `Invalid` if the tenant has none."""
        try:
            return self._billing[tenant, account]
        except KeyError:
            raise Invalid(
                f"the tenant {tenant!r} has no account stripe/{account}: add it to the file "
                "that ACCOUNTS_FILE names"
            ) from None

    def gate(self, tenant: str, request: NewCheckout) -> CallGuard:
        """Return the guard of calls to the account that `find` returns."""
        return self._gates[tenant, request.provider, request.account]

    def find(self, tenant: str, request: NewCheckout) -> CheckoutClient:
        """Return the client of the account. Raise `Invalid` if the tenant has no such account."""
        try:
            return self._clients[tenant, request.provider, request.account]
        except KeyError:
            raise Invalid(
                f"the tenant {tenant!r} has no account {request.provider}/{request.account}: "
                "add it to the file that ACCOUNTS_FILE names"
            ) from None
