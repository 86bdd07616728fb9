"""The endpoints file: the accounts whose calls are accepted, with their tenants and secrets.

[[endpoint]]
provider = "stripe"
tenant = "shop"
secrets = ["whsec_new", "whsec_old"]    # several during a rotation

[[endpoint]]
provider = "square"
name = "paris"                          # POST /webhooks/square/paris
tenant = "market"
secrets = ["..."]
options = { notification_url = "https://pay.example.com/webhooks/square/paris" }
paths = ["/square/notifications/"]      # also here: the URL of the system before
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_validator

from common.clients import accounts_file
from common.clients.accounts_file import Account, gateway_source

# Paths of the gateway itself.
_OWN = ("/health", "/healthz", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json")


def _not_ours(path: str) -> str:
    if path in _OWN or path.startswith(("/health/", "/webhooks/health")):
        raise ValueError("the gateway itself serves this path")
    return path


class Endpoint(Account):
    """One account whose calls are accepted. `name` is the last segment of its path; `paths` are
    further paths, such as the one at which the system before was called."""

    secrets: tuple[SecretStr, ...] = ()
    paths: tuple[
        Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]{1,200}$"), AfterValidator(_not_ours)], ...
    ] = ()

    @field_validator("secrets")
    @classmethod
    def _not_empty(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(each.get_secret_value() for each in secrets):
            raise ValueError("a secret must not be empty")
        return secrets

    @property
    def source(self) -> str:
        """The `source` of the endpoint's events."""
        return gateway_source(self.provider, self.name)


def read(path: Path) -> list[Endpoint]:
    """Read the endpoints file. Raises `AccountsInvalid`."""
    return accounts_file.read(path, "endpoint", Endpoint)
