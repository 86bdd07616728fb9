"""Settings of the subscription service, per role."""

from pydantic import Field, FilePath

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import DatabaseSettings, ScheduleSettings


class AccountsSettings(DatabaseSettings, EncryptionSettings):
    accounts_file: FilePath | None = Field(
        default=None, description="at which accounts customers pay, as TOML"
    )
    provider_timeout_seconds: float = Field(
        default=15, ge=0.1, le=60, description="how long a provider may take to answer"
    )
    billing_quiet_seconds: float = Field(
        default=60,
        ge=0,
        le=600,
        description="how long Stripe may be at work on a command that it did not answer",
    )


class ApiSettings(AccountsSettings, settings.ApiSettings):
    """Settings of the API. Entitlements are also cached at `redis_url`."""


class WorkerSettings(AccountsSettings, settings.WorkerSettings, ScheduleSettings):
    concurrency: int = Field(default=8, ge=1, description="refunds under way at once")
    consumer_batch: int = Field(
        default=250, ge=1, le=1000, description="messages in one transaction, at the most"
    )
    renewals_interval_seconds: float = Field(
        default=60, ge=1, description="how often due subscriptions are looked for"
    )
