"""The payout accounts file: the provider accounts from which a tenant's recipients are paid.

[[account]]
provider = "dwolla"
tenant = "market"

[account.options]
key = "..."
secret = "..."
account_id = "..."
funding_source = "..."
limits = { USD = 1_000_000 }
approval_threshold = { USD = 100_000 }

`name` is that of the gateway's endpoint that receives the account's webhooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.clients import accounts_file
from common.clients.accounts_file import AccountsInvalid, gateway_source, options_of
from common.db.database import Sessions
from common.errors import Invalid
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard, ignore
from common.resilience.circuit_store import Circuits
from common.resilience.rate_limiter import RateLimiter
from common.settings import secrets_of
from payouts.providers.base import PayoutClient, ReadOnlyClient
from payouts.providers.dwolla import Dwolla
from payouts.providers.fapshi import Fapshi
from payouts.providers.square import Square
from payouts.providers.stripe import Stripe

CLIENTS: Mapping[str, type[PayoutClient]] = {
    "dwolla": Dwolla,
    "fapshi": Fapshi,
    "square": Square,
    "stripe": Stripe,
}

# Providers that pay by their own rules: payouts are neither created nor retried there.
READ_ONLY = frozenset(name for name, kind in CLIENTS.items() if issubclass(kind, ReadOnlyClient))


@dataclass(frozen=True)
class ProviderAccount:
    tenant: str
    provider: str
    name: str
    client: PayoutClient
    gate: CallGuard

    @property
    def path(self) -> str:
        return f"{self.provider}/{self.name}"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.tenant, self.provider, self.name

    def transfer_key(self, transfer_id: str) -> tuple[str, str, str, str]:
        return *self.key, transfer_id

    @property
    def pays(self) -> bool:
        return not isinstance(self.client, ReadOnlyClient)

    def limit(self, currency: str) -> int:
        """Return the largest amount that is paid (minor units); 0 for a currency that is not
        paid."""
        found: int = self.client.options.limits.get(currency, 0)
        return found

    def needs_approval(self, amount: int, currency: str) -> bool:
        above: int | None = self.client.options.approval_threshold.get(currency)
        return above is not None and amount > above


class Accounts:
    def __init__(
        self,
        path: Path | None,
        http: httpx.AsyncClient,
        sessions: Sessions,
        redact: Redactor,
        *,
        circuits: Circuits | None = None,
    ) -> None:
        """Read the accounts file; without a file there are no accounts. Raises
        `AccountsInvalid`."""
        self._accounts: dict[tuple[str, str, str], ProviderAccount] = {}
        for each in accounts_file.read_any(path, "account", accounts_file.Account):
            kind = CLIENTS.get(each.provider)
            if kind is None:
                known = ", ".join(sorted(CLIENTS))
                raise AccountsInvalid(
                    f"{each.provider!r} is not a payout provider; these are: {known}"
                )
            options = options_of(each, kind.options_model)
            redact.learn(secrets_of(options))
            system = f"{each.tenant}/{each.path}"
            gate = CallGuard(
                system,
                label=each.path,
                max_concurrency=options.max_concurrency,
                quota=RateLimiter(
                    system,
                    options.rate_per_second,
                    burst=max(1, int(options.rate_per_second)),
                    sessions=sessions,
                ),
                open_seconds=options.circuit_reset_seconds,
                on_change=circuits.listener(each.tenant, each.path) if circuits else ignore,
            )
            key = (each.tenant, each.provider, each.name)
            self._accounts[key] = ProviderAccount(*key, kind(options, http), gate)

    def __iter__(self) -> Iterator[ProviderAccount]:
        return iter(self._accounts.values())

    def find(self, tenant: str, provider: str, name: str) -> ProviderAccount:
        """Return the account. Raises `Invalid` if the tenant has no such account."""
        try:
            return self._accounts[tenant, provider, name]
        except KeyError:
            mine = [each.path for each in self if each.tenant == tenant]
            raise Invalid(
                f"the tenant {tenant!r} has no account {provider}/{name}, but "
                f"{', '.join(sorted(mine)) or 'none'}: the file that PAYOUT_ACCOUNTS_FILE names "
                "says which"
            ) from None


def account_of(source: str, provider: str) -> str:
    """Return the name of the account that gateway events of this source are about."""
    default = gateway_source(provider, accounts_file.DEFAULT)
    return source.removeprefix(f"{default}/") if source != default else accounts_file.DEFAULT
