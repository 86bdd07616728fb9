"""The accounts file: at whose account with a provider a tenant's checkouts are started.

[[account]]
provider = "fapshi"
tenant = "shop"
options = { api_user = "...", api_key = "..." }

`name` is the one that the gateway's endpoint of the same account has: there its payments are heard
of, and asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx

from common import accounts
from common.accounts import Account, AccountsInvalid, options_of
from common.errors import Invalid
from common.redaction import Redactor
from common.settings import secrets_of
from subscription.clients import CheckoutClient
from subscription.clients.fapshi import Fapshi
from subscription.clients.flutterwave import Flutterwave
from subscription.clients.mtn_momo import MtnMomo
from subscription.clients.orange_money import OrangeMoney
from subscription.clients.stripe import Stripe
from subscription.requests import NewCheckout

CLIENTS: Mapping[str, type[CheckoutClient]] = {
    "fapshi": Fapshi,
    "flutterwave": Flutterwave,
    "mtn-momo": MtnMomo,
    "orange-money": OrangeMoney,
    "stripe": Stripe,
}


class Accounts:
    def __init__(self, path: Path | None, http: httpx.AsyncClient, redact: Redactor) -> None:
        """Raises `AccountsInvalid`. Without a file there are none."""
        self._clients: dict[tuple[str, str, str], CheckoutClient] = {}
        for account in accounts.read(path, "account", Account) if path else ():
            kind = CLIENTS.get(account.provider)
            if kind is None:
                known = ", ".join(sorted(CLIENTS))
                raise AccountsInvalid(f"no checkouts with {account.provider}; there are {known}")
            options = options_of(account, kind.options_model)
            redact.learn(secrets_of(options))
            self._clients[account.tenant, account.provider, account.name] = kind(options, http)

    def find(self, tenant: str, wanted: NewCheckout) -> CheckoutClient:
        """Raises `Invalid` when the tenant has no such account."""
        try:
            return self._clients[tenant, wanted.provider, wanted.account]
        except KeyError:
            raise Invalid(
                f"the tenant {tenant!r} has no account {wanted.provider}/{wanted.account}: "
                "give it one in the file that ACCOUNTS_FILE names"
            ) from None
