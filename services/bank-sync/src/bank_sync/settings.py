"""The bank-sync service's settings, per role."""

from pydantic import Field, SecretStr

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import FileIfAny, ScheduleSettings


class BankSettings(EncryptionSettings, ScheduleSettings):
    bank_accounts_file: FileIfAny | None = Field(
        default=None, description="each tenant's Plaid clients, as TOML"
    )
    provider_timeout_seconds: float = Field(
        default=30, ge=0.1, le=120, description="the timeout of a call to Plaid"
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis, for counting calls; without it, PostgreSQL counts them"
    )


class ApiSettings(settings.ApiSettings, BankSettings):
    bank_balance_ttl_seconds: float = Field(
        default=60,
        ge=0,
        le=86_400,
        description="the maximum age of a balance before Plaid is queried",
    )


class WorkerSettings(settings.WorkerSettings, BankSettings):
    concurrency: int = Field(
        default=64,
        ge=1,
        le=200,
        description="the maximum number of concurrent syncs, including those that wait",
    )
    bank_sync_max_age_hours: float = Field(
        default=24, ge=0.001, description="an item that was not synced for this long is synced"
    )
    banks_interval_seconds: float = Field(
        default=30, ge=0.5, description="the interval of the search for overdue syncs and items"
    )
    bank_sync_lease_seconds: float = Field(
        default=120,
        ge=2,
        description="a sync without progress for this long is claimed by another worker",
    )
