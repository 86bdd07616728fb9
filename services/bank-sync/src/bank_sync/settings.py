"""The bank-sync service's settings, per role."""

from pydantic import Field, FilePath, SecretStr

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import ScheduleSettings


class BankSettings(EncryptionSettings, ScheduleSettings):
    bank_accounts_file: FilePath | None = Field(
        default=None, description="each tenant's clients at Plaid, as TOML"
    )
    provider_timeout_seconds: float = Field(
        default=30, ge=0.1, le=120, description="how long Plaid may take to answer"
    )
    redis_url: SecretStr | None = Field(
        default=None, description="where calls are counted; without, in PostgreSQL"
    )


class ApiSettings(settings.ApiSettings, BankSettings):
    bank_balance_ttl_seconds: float = Field(
        default=60, ge=0, le=86_400, description="how old a balance may be before Plaid is asked"
    )


class WorkerSettings(settings.WorkerSettings, BankSettings):
    concurrency: int = Field(
        default=64, ge=1, le=200, description="syncs under way at once, those that wait included"
    )
    bank_sync_max_age_hours: float = Field(
        default=24, ge=0.001, description="an item that heard nothing for so long is synced"
    )
    banks_interval_seconds: float = Field(
        default=30, ge=0.5, description="how often overdue syncs and items are looked for"
    )
    bank_sync_lease_seconds: float = Field(
        default=120, ge=2, description="a sync that shows no progress for so long is taken over"
    )
