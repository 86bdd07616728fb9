"""The bank accounts file: each tenant's clients at Plaid, under which items are linked.

[[client]]
provider = "plaid"
tenant = "finance"

[client.options]
client_id = "..."
secret = "..."
webhook = "https://hooks.example.com/webhooks/plaid"

`name` is that of the gateway's endpoint for the same client, which receives its webhooks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator

from bank_sync import metrics
from bank_sync.clients.base import BankClient
from bank_sync.clients.plaid import API, PRODUCTS, Plaid
from bank_sync.clients.rate_limiter import ProviderRateLimiter
from common.clients import accounts_file
from common.clients.accounts_file import AccountsInvalid, options_of
from common.errors import Invalid
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard, ignore
from common.resilience.circuit_store import Circuits
from common.settings import secrets_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SYNC, BALANCE, OTHER = "sync", "balance", "other"


class Options(BaseModel):
    """Credentials, and Plaid's limits (calls per minute; of one item, and of all).
    https://plaid.com/docs/errors/rate-limit-exceeded/"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_id: str = Field(min_length=1)
    secret: SecretStr
    base_url: HttpUrl = API
    webhook: HttpUrl | None = Field(
        default=None, description="the gateway's webhook URL, for new items"
    )
    client_name: str = Field(
        default="Paybus", min_length=1, max_length=30, description="the name that Link shows"
    )
    products: tuple[str, ...] = Field(
        default=("transactions",),
        description="the products that Link asks the user for; Paybus reads `transactions`",
    )
    max_concurrency: int = Field(
        default=16, ge=1, le=200, description="concurrent calls of one process"
    )
    circuit_reset_seconds: float = Field(default=30, gt=0, le=3600)
    item_syncs: int = Field(default=50, ge=2)
    item_balances: int = Field(default=5, ge=2)
    item_others: int = Field(default=15, ge=2)
    client_syncs: int = Field(default=2500, ge=2)
    client_balances: int = Field(default=1200, ge=2)
    client_others: int = Field(default=1200, ge=2)

    @field_validator("products")
    @classmethod
    def _known(cls, products: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted({*products} - PRODUCTS):
            raise ValueError(f"Plaid has no product {', '.join(unknown)}")
        if "transactions" not in products:
            raise ValueError("transactions must be one of them: Paybus reads nothing else")
        return products


@dataclass(frozen=True)
class Client:
    tenant: str
    name: str
    options: Options
    api: BankClient
    gate: CallGuard
    counter: ProviderRateLimiter

    @asynccontextmanager
    async def calling(self, kind: str, item: str | None = None) -> AsyncIterator[None]:
        """Wrap one call of the provider. Raises `RateLimited` when it exceeds a limit, and while
        the circuit is open."""
        of_item: Mapping[str, int] = {
            SYNC: self.options.item_syncs,
            BALANCE: self.options.item_balances,
            OTHER: self.options.item_others,
        }
        of_all: Mapping[str, int] = {
            SYNC: self.options.client_syncs,
            BALANCE: self.options.client_balances,
            OTHER: self.options.client_others,
        }
        async with self.gate.admit():
            if item is not None:
                await self.counter.acquire(f"{item}/{kind}", of_item[kind])
            await self.counter.acquire(f"{self.gate.system}/{kind}", of_all[kind])
            started = time.perf_counter()
            try:
                async with self.gate.call():
                    yield
            finally:
                metrics.calls.labels(kind).observe(time.perf_counter() - started)


class Clients:
    def __init__(
        self,
        path: Path | None,
        counter: ProviderRateLimiter,
        redact: Redactor,
        *,
        timeout: float,
        circuits: Circuits | None = None,
        closing: Callable[[Callable[[], None]], object],
    ) -> None:
        """Read the file. Raises `AccountsInvalid`. Without a file there are no clients. `closing`
        registers a function to call at shutdown."""
        self._clients: dict[tuple[str, str], Client] = {}
        for each in accounts_file.read_any(path, "client", accounts_file.Account):
            if each.provider != "plaid":
                raise AccountsInvalid(
                    f"{each.provider!r} is not a provider of bank data; `plaid` is"
                )
            options = options_of(each, Options)
            redact.learn(secrets_of(options))
            api = Plaid(
                options.client_id,
                options.secret,
                options.base_url,
                timeout=timeout,
                max_concurrency=options.max_concurrency,
                client_name=options.client_name,
                products=options.products,
            )
            closing(api.close)
            gate = CallGuard(
                f"{each.tenant}/{each.path}",
                label=each.path,
                max_concurrency=options.max_concurrency,
                quota=None,
                open_seconds=options.circuit_reset_seconds,
                on_change=circuits.listener(each.tenant, each.path) if circuits else ignore,
            )
            client = Client(each.tenant, each.name, options, api, gate, counter)
            self._clients[each.tenant, each.name] = client

    def find(self, tenant: str, name: str) -> Client:
        """Return the tenant's client. Raises `Invalid` when there is no such client."""
        try:
            return self._clients[tenant, name]
        except KeyError:
            mine = ", ".join(sorted(n for t, n in self._clients if t == tenant)) or "none"
            raise Invalid(
                f"the tenant {tenant!r} has no client plaid/{name}, but {mine}: the file that "
                "BANK_ACCOUNTS_FILE names says which"
            ) from None
