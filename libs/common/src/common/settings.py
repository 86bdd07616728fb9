"""Settings from environment variables and files, validated before anything starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

import jwt
from pydantic import (
    AfterValidator,
    AmqpDsn,
    BaseModel,
    BeforeValidator,
    Field,
    HttpUrl,
    IPvAnyNetwork,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from common.contracts.retry_ladder import RetryLadder
from common.errors import unreadable

_AMQP: TypeAdapter[AmqpDsn] = TypeAdapter(AmqpDsn)


def _amqp_url(value: SecretStr) -> SecretStr:
    try:
        _AMQP.validate_python(value.get_secret_value())
    except ValidationError:
        raise ValueError("must look like amqp://user:password@host:5672/vhost") from None
    return value


def _postgres_url(value: SecretStr) -> SecretStr:
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in {"postgresql", "postgres"} or not url.database:
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    full = url.set(drivername="postgresql+psycopg")
    return SecretStr(full.render_as_string(hide_password=False))


def _ladder(value: str) -> str:
    RetryLadder.parse(value)
    return value


def _readable(path: Path) -> Path:
    try:
        with path.open():
            return path
    except OSError as error:
        raise ValueError(unreadable(path, error)) from None


def _readable_if_there(path: Path) -> Path:
    try:
        path.stat()
    except FileNotFoundError:
        return path
    except OSError:
        pass  # said below
    return _readable(path)


def key_set(path: Path) -> Path:
    """Return `path` if it is a JSON Web Key Set with a usable key. Raise `ValueError`."""
    try:
        jwt.PyJWKSet.from_json(path.read_text())
    except (ValueError, jwt.PyJWTError, AttributeError):
        raise ValueError("contains no JSON Web Key Set with a usable key") from None
    return path


AmqpUrl = Annotated[SecretStr, AfterValidator(_amqp_url)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]
# A missing file means what an empty one does.
FileIfAny = Annotated[Path, AfterValidator(_readable_if_there)]
CommaSeparated = NoDecode  # marks a list that is written as `a,b,c`, not as JSON


def split_commas(value: Any) -> Any:
    """Split a string, as the `BeforeValidator` of a `CommaSeparated` list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class Settings(BaseSettings):
    """Settings of every process. Names are upper case in the environment; in the folder that
    SECRETS_DIR or systemd's CREDENTIALS_DIRECTORY names, a file's lower-case name is a setting's
    and its content the value. The environment goes first."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = os.environ.get("SECRETS_DIR") or os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="the minimum severity of the log events that are written"
    )


class HttpSettings(Settings):
    http_host: str = Field(default="127.0.0.1", description="the address of the HTTP server")
    http_port: int = Field(
        default=8000, ge=0, le=65535, description="its port; 0 selects a free port"
    )
    shutdown_grace_seconds: float = Field(
        default=25,
        gt=0,
        le=3600,
        description="how long the process waits after SIGTERM for work in progress",
    )


class BrokerSettings(Settings):
    rabbitmq_url: AmqpUrl = Field(
        description="the broker, as `amqp://` or `amqps://user:password@host:port/vhost`"
    )
    retry_ladder: Annotated[str, AfterValidator(_ladder)] = Field(
        default="5s,30s,2m,10m,1h",
        description="the delays between attempts; the same for all services of a virtual host",
    )


class DatabaseSettings(Settings):
    database_url: PostgresUrl = Field(
        description="the service's own database, as `postgresql://user:password@host:port/name`"
    )
    database_pool_size: int = Field(
        default=10,
        ge=2,
        le=200,
        description="the maximum number of open connections of a process",
    )


class WorkerSettings(HttpSettings, BrokerSettings, DatabaseSettings):
    """Settings of every worker."""

    inbox_retention_days: int = Field(
        default=8,
        ge=8,
        description="how long duplicates are recognised; the journal retains 7 days",
    )


class ScheduleSettings(Settings):
    operator_tenant: str = Field(
        default="default", description="the tenant that runs the scheduled jobs of all tenants"
    )


class ThrottleSettings(Settings):
    """Rate limits of an API."""

    calls_per_minute_per_token: int = Field(
        default=6000, ge=1, description="requests from one caller"
    )
    calls_per_minute_per_address: int = Field(
        default=12_000, ge=1, description="requests from one address"
    )
    sign_ins_per_minute: int = Field(
        default=20, ge=1, description="console sign-ins from one address"
    )
    rate_limit_strategy: Literal["fixed-window", "sliding-window", "token-bucket"] = Field(
        default="token-bucket", description="the rate-limiting algorithm"
    )
    trusted_proxies: Annotated[
        list[IPvAnyNetwork], CommaSeparated, BeforeValidator(split_commas)
    ] = Field(default=[], description="networks whose `X-Forwarded-For` is trusted")
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis, for limits shared by all replicas; without it each replica counts "
        "separately",
    )


class AuthSettings(ThrottleSettings):
    """Location of the public keys of API tokens: a file or a URL."""

    auth_jwks_file: Annotated[ReadableFile, AfterValidator(key_set)] | None = Field(
        default=None, description="the public keys that verify tokens, as a JSON Web Key Set"
    )
    auth_jwks_url: HttpUrl | None = Field(
        default=None,
        description="the URL of that key set; exactly one of AUTH_JWKS_FILE and AUTH_JWKS_URL is "
        "set",
    )
    auth_audience: str = Field(
        default="paybus",
        description="the required audience; tokens for other audiences are rejected",
    )
    auth_issuer: str = Field(
        min_length=1, description="the required issuer; tokens of other issuers are rejected"
    )

    @model_validator(mode="after")
    def _one_key_set(self) -> Self:
        if (self.auth_jwks_file is None) == (self.auth_jwks_url is None):
            raise ValueError("AUTH_JWKS_FILE or AUTH_JWKS_URL must be set, and only one of them")
        return self


class ApiSettings(HttpSettings, DatabaseSettings, AuthSettings, ScheduleSettings):
    """Settings of every API that has a database."""


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_or_exit(model: type[SettingsT]) -> SettingsT:
    """Read the environment, or exit with one sentence per invalid variable (status 2)."""
    try:
        return model()
    except ValidationError as error:
        _refuse(error)
    except PermissionError as error:  # of a folder that a setting names
        print(f"{unreadable(Path(error.filename), error)}.", file=sys.stderr)
        sys.exit(2)


def _refuse(error: ValidationError) -> NoReturn:
    # Only names and reasons: the invalid value may be a secret.
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        reason = each["msg"].removeprefix("Value error, ")
        if each["loc"]:
            fault = "is not set" if each["type"] == "missing" else f"is wrong: {reason}"
            reason = f"{str(each['loc'][0]).upper()} {fault}"
        print(f"{reason}.", file=sys.stderr)
    sys.exit(2)


def secrets_of(settings: BaseModel) -> list[str]:
    """Return every secret value in settings or options, for masking in logs and dead letters."""
    found: list[str] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, SecretStr) and each.get_secret_value():
                found.append(each.get_secret_value())
    return found
