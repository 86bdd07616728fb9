"""The endpoints file: whose calls are taken, for which tenant, and with which secrets.

[[endpoint]]
provider = "stripe"
tenant = "shop"
secrets = ["whsec_new", "whsec_old"]    # several while one is being rotated

[[endpoint]]
provider = "square"
name = "paris"                          # POST /webhooks/square/paris
tenant = "market"
secrets = ["..."]
options = { notification_url = "https://pay.example.com/webhooks/square/paris" }
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from common.contracts.event import faults
from common.errors import PaybusError

_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
DEFAULT = "default"


class EndpointsInvalid(PaybusError):
    """The endpoints file can't be used. The message names places and reasons, and no secret."""


class Endpoint(BaseModel):
    """One account with a provider. `name` is the last part of its path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str = Field(pattern=_NAME)
    name: str = Field(default=DEFAULT, pattern=_NAME)
    tenant: str = Field(pattern=_NAME)
    secrets: tuple[SecretStr, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("secrets")
    @classmethod
    def _not_empty(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(each.get_secret_value() for each in secrets):
            raise ValueError("a secret may not be empty")
        return secrets

    @property
    def path(self) -> str:
        return f"{self.provider}/{self.name}"

    @property
    def source(self) -> str:
        """Of its events. It names the endpoint, for whoever holds another tenant's secret could
        otherwise send events that pass for duplicates of this one's."""
        return f"/webhook-gateway/{self.provider if self.name == DEFAULT else self.path}"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    endpoint: list[Endpoint] = Field(min_length=1)


def read(path: Path) -> list[Endpoint]:
    """Raises `EndpointsInvalid`."""
    try:
        found = _File.model_validate(tomllib.loads(path.read_text())).endpoint
    except (OSError, UnicodeDecodeError) as error:
        raise EndpointsInvalid(f"{path} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise EndpointsInvalid(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        raise EndpointsInvalid(f"{path}: {faults(error)}") from None
    paths = [each.path for each in found]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise EndpointsInvalid(f"{path}: more than one endpoint is {', '.join(sorted(twice))}")
    return found
