"""The operations service's settings, per role."""

from pydantic import Field, HttpUrl

from common import settings
from common.settings import AuthSettings, DatabaseSettings, HttpSettings, ScheduleSettings


class ApiSettings(HttpSettings, DatabaseSettings, AuthSettings, ScheduleSettings):
    edit_and_replay: bool = Field(
        default=False, description="whether admins may send a dead letter again with other data"
    )
    payouts_url: HttpUrl | None = Field(
        default=None, description="asked before an old payout command is sent again"
    )
    payout_window_hours: float = Field(
        default=23, gt=0, description="how long providers know an idempotency key, less a margin"
    )


class WorkerSettings(settings.WorkerSettings, ScheduleSettings):
    replay_lease_seconds: float = Field(
        default=15, ge=2, description="a replay whose worker is silent for so long is taken over"
    )
    keep_days: int = Field(
        default=90, ge=7, description="how long what is settled stays to be seen"
    )
