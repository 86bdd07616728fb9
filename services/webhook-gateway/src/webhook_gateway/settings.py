"""The gateway's settings. Providers' secrets are in the endpoints file (providers/endpoint.py)."""

from pydantic import DirectoryPath, Field, SecretStr

from common import settings
from common.settings import BrokerSettings, HttpSettings, ReadableFile


class EndpointsSettings(HttpSettings, BrokerSettings):
    endpoints_file: ReadableFile = Field(
        description="the endpoints whose webhooks are accepted, as TOML"
    )


class ApiSettings(EndpointsSettings):
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="the maximum size of a webhook's body"
    )
    webhook_spool_dir: DirectoryPath | None = Field(
        default=None,
        description="the folder in which webhooks wait while the broker confirms nothing",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis, for rate limits shared by all gateways",
    )
    gateway_spool_max_bytes: int = Field(
        default=1024**3, ge=1024**2, description="the maximum size of the spool"
    )


class WorkerSettings(EndpointsSettings, settings.WorkerSettings):
    payment_polls_per_second: float = Field(
        default=5,
        gt=0,
        description="status queries to one endpoint's provider, by all workers together",
    )
    payment_poll_burst: int = Field(
        default=20, ge=1, description="status queries to one endpoint's provider in a burst"
    )
    payment_poll_timeout_seconds: float = Field(
        default=10, ge=0.1, le=60, description="the timeout of one status query"
    )
    concurrency: int = Field(
        default=16, ge=1, description="concurrent status queries to one provider, of this process"
    )
    stripe_backfill_delay_seconds: float = Field(
        default=120,
        ge=1,
        description="how late a webhook of Stripe may arrive before its event is backfilled",
    )
    stripe_backfill_interval_seconds: float = Field(
        default=60, ge=1, description="the interval at which Stripe's event list is read"
    )
