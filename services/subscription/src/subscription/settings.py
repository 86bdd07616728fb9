"""Settings of the subscription service, per role."""

from pydantic import Field

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import DatabaseSettings, FileIfAny, ScheduleSettings


class AccountsSettings(DatabaseSettings, EncryptionSettings):
    accounts_file: FileIfAny | None = Field(
        default=None, description="the provider accounts at which customers pay, as TOML"
    )
    provider_timeout_seconds: float = Field(
        default=15, ge=0.1, le=60, description="the timeout of a call to a provider"
    )
    billing_quiet_seconds: float = Field(
        default=60,
        ge=0,
        le=600,
        description="how long Stripe may still execute a command whose response was lost",
    )


class ApiSettings(AccountsSettings, settings.ApiSettings):
    """Settings of the API. Entitlements are also cached at `redis_url`."""


class WorkerSettings(AccountsSettings, settings.WorkerSettings, ScheduleSettings):
    concurrency: int = Field(
        default=8, ge=1, description="the maximum number of concurrent refunds"
    )
    consumer_batch: int = Field(
        default=250, ge=1, le=1000, description="the maximum number of messages in one transaction"
    )
    renewals_interval_seconds: float = Field(
        default=60, ge=1, description="the interval of the search for due subscriptions"
    )
