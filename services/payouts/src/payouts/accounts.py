"""The payout accounts file: at whose account with a provider a tenant's recipients are paid.

[[account]]
provider = "dwolla"
tenant = "market"

[account.options]
key = "..."
secret = "..."
account_id = "..."
funding_source = "..."
limits = { USD = 1_000_000 }
approval_above = { USD = 100_000 }

`name` is the one of the gateway's endpoint for the same account: there its webhooks come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from common import accounts
from common.accounts import AccountsInvalid, gateway_source, options_of
from common.circuits import Circuits
from common.database import Sessions
from common.errors import Invalid
from common.gate import Gate, unheard
from common.quota import Quota
from common.redaction import Redactor
from common.settings import secrets_of
from payouts.clients import PayoutClient, ReadOnlyClient
from payouts.clients.dwolla import Dwolla
from payouts.clients.fapshi import Fapshi
from payouts.clients.square import Square
from payouts.clients.stripe import Stripe

CLIENTS: Mapping[str, type[PayoutClient]] = {
    "dwolla": Dwolla,
    "fapshi": Fapshi,
    "square": Square,
    "stripe": Stripe,
}

# Who pays by rules of their own: nothing is ordered there, nor tried again.
READ_ONLY = frozenset(name for name, kind in CLIENTS.items() if issubclass(kind, ReadOnlyClient))


@dataclass(frozen=True)
class Account:
    tenant: str
    provider: str
    name: str
    client: PayoutClient
    gate: Gate

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
        """The largest amount that is paid; 0 in a currency that is not paid at all."""
        found: int = self.client.options.limits.get(currency, 0)
        return found

    def needs_approval(self, amount: int, currency: str) -> bool:
        above: int | None = self.client.options.approval_above.get(currency)
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
        """Raises `AccountsInvalid`. Without a file there are none."""
        self._accounts: dict[tuple[str, str, str], Account] = {}
        for each in accounts.read(path, "account", accounts.Account) if path else ():
            kind = CLIENTS.get(each.provider)
            if kind is None:
                known = ", ".join(sorted(CLIENTS))
                raise AccountsInvalid(f"no payouts with {each.provider}; there are {known}")
            options = options_of(each, kind.options_model)
            redact.learn(secrets_of(options))
            system = f"{each.tenant}/{each.path}"
            gate = Gate(
                system,
                label=each.path,
                at_once=options.at_once,
                quota=Quota(
                    system,
                    options.per_second,
                    burst=max(1, int(options.per_second)),
                    sessions=sessions,
                ),
                open_seconds=options.circuit_seconds,
                on_change=circuits.listener(each.tenant, each.path) if circuits else unheard,
            )
            key = (each.tenant, each.provider, each.name)
            self._accounts[key] = Account(*key, kind(options, http), gate)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def find(self, tenant: str, provider: str, name: str) -> Account:
        """Raises `Invalid` when the tenant has no such account."""
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
    """The account that the gateway's events of this source are about."""
    default = gateway_source(provider, accounts.DEFAULT)
    return source.removeprefix(f"{default}/") if source != default else accounts.DEFAULT
