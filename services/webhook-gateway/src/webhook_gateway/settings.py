"""The gateway's settings. Secrets of providers are in the endpoints file (endpoints.py)."""

from pydantic import DirectoryPath, Field, FilePath, SecretStr

from common import settings
from common.settings import BrokerSettings, HttpSettings


class EndpointsSettings(HttpSettings, BrokerSettings):
    endpoints_file: FilePath = Field(description="whose webhooks are taken, as TOML")


class ApiSettings(EndpointsSettings):
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    webhook_spool_dir: DirectoryPath | None = Field(
        default=None, description="where webhooks wait while the broker does not confirm"
    )
    redis_url: SecretStr | None = Field(
        default=None, description="where all gateways together count calls for the rate limits"
    )
    gateway_spool_max_bytes: int = Field(default=1024**3, ge=1024**2)


class WorkerSettings(EndpointsSettings, settings.WorkerSettings):
    payment_polls_per_second: float = Field(
        default=5, gt=0, description="to one endpoint's provider, by all workers together"
    )
    payment_poll_burst: int = Field(default=20, ge=1)
    payment_poll_timeout_seconds: float = Field(default=10, ge=0.1, le=60)
    concurrency: int = Field(default=16, ge=1, description="questions to one provider at once")
    stripe_backfill_delay_seconds: float = Field(
        default=120, ge=1, description="how long a webhook of Stripe may take before it is missed"
    )
    stripe_backfill_interval_seconds: float = Field(default=60, ge=1)
