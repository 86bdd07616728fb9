"""TOML files that list tenants' accounts with providers: one table per account."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import PaybusError, unreadable, validation_faults
from common.observability.logging import get_logger

log = get_logger(__name__)

_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
DEFAULT = "default"


class AccountsInvalid(PaybusError):
    """Unusable accounts file. The message names places and reasons, never a secret."""


class Account(BaseModel):
    """One account with a provider; `name` distinguishes several accounts with the same provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str = Field(pattern=_NAME)
    name: str = Field(default=DEFAULT, pattern=_NAME)
    tenant: str = Field(pattern=_NAME)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.provider}/{self.name}"


def gateway_source(provider: str, name: str) -> str:
    """Return the source of the gateway's events about an account.

    It names the endpoint: otherwise the holder of one tenant's secret could send events that count
    as duplicates of another tenant's.
    """
    return f"/webhook-gateway/{provider}" + ("" if name == DEFAULT else f"/{name}")


AccountT = TypeVar("AccountT", bound=Account)
OptionsT = TypeVar("OptionsT", bound=BaseModel)


def read_any(path: Path | None, table: str, model: type[AccountT]) -> list[AccountT]:
    """Return the accounts like `read`, but none where the file is empty, missing or not
    configured: a service can run without accounts. Raise `AccountsInvalid`."""
    if path is None:
        return []
    if not path.exists():
        log.warning(
            "accounts_file_missing",
            hint="create the file, unless the service is to have no accounts",
            path=str(path),
        )
        return []
    file = _load(path)
    return _accounts(path, file, table, model) if file else []


def read(path: Path, table: str, model: type[AccountT]) -> list[AccountT]:
    """Return the accounts in the file's `[[table]]` tables, at least one. Raise
    `AccountsInvalid`."""
    return _accounts(path, _load(path), table, model)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AccountsInvalid(unreadable(path, error)) from None
    except UnicodeDecodeError as error:
        raise AccountsInvalid(f"{path} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise AccountsInvalid(f"{path} is not valid TOML: {error}") from None


def _accounts(
    path: Path, file: dict[str, Any], table: str, model: type[AccountT]
) -> list[AccountT]:
    accounts: TypeAdapter[dict[str, list[AccountT]]] = TypeAdapter(dict[str, list[model]])  # type: ignore[valid-type]
    if file.keys() != {table} or not file[table]:
        raise AccountsInvalid(f"{path} must have [[{table}]] tables and no other ones")
    try:
        found = accounts.validate_python(file)[table]
    except ValidationError as error:
        raise AccountsInvalid(f"{path}: {validation_faults(error)}") from None
    if path.stat().st_mode & stat.S_IWOTH:
        log.warning(
            "accounts_file_world_writable",
            hint="every user of this machine can change it: chmod o-w",
            path=str(path),
        )
    paths = [each.path for each in found]
    if twice := {each for each in paths if paths.count(each) > 1}:
        raise AccountsInvalid(f"{path}: more than one {table} is {', '.join(sorted(twice))}")
    return found


def options_of(account: Account, model: type[OptionsT]) -> OptionsT:
    """Return the account's options as `model`. Raise `AccountsInvalid`."""
    try:
        return model.model_validate(account.options)
    except ValidationError as error:
        raise AccountsInvalid(f"{account.path}: options: {validation_faults(error)}") from None
