"""The operations service's settings, per role."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, HttpUrl

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import (
    CommaSeparated,
    ScheduleSettings,
    split_commas,
)


def _by_name(value: Any) -> Any:
    parts = split_commas(value)
    if not isinstance(parts, list):
        return parts
    pairs = [part.partition("=") for part in parts]
    if not all(name and url for name, _, url in pairs):
        raise ValueError("must look like payouts=http://host:8000,subscription=http://host:8000")
    return {name: url for name, _, url in pairs}


class ApiSettings(settings.ApiSettings, EncryptionSettings):
    console_insecure_cookies: bool = Field(
        default=False, description="allow console cookies without TLS, on a developer's machine"
    )
    edit_and_replay_enabled: bool = Field(
        default=False, description="whether admins may edit and replay a dead letter"
    )
    service_urls: Annotated[dict[str, HttpUrl], CommaSeparated, BeforeValidator(_by_name)] = Field(
        default_factory=dict,
        description="the services' APIs, as `payouts=http://...,subscription=http://...`",
    )
    gateway_url: HttpUrl | None = Field(
        default=None, description="the webhook gateway, queried for the webhooks that it received"
    )
    payouts_url: HttpUrl | None = Field(
        default=None,
        description="the payouts service's API, queried before an old payout command is replayed",
    )
    payout_replay_window_hours: float = Field(
        default=23,
        gt=0,
        description="how long providers recognise an idempotency key, less a margin",
    )


class WorkerSettings(settings.WorkerSettings, EncryptionSettings, ScheduleSettings):
    replay_lease_seconds: float = Field(
        default=15,
        ge=2,
        description="a replay whose worker is silent for this long is claimed by another worker",
    )
    dead_letter_retention_days: int = Field(
        default=90,
        ge=7,
        description="how long resolved dead letters and finished replays are retained",
    )
