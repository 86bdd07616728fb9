"""Settings of the payouts service, per role."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import (
    CommaSeparated,
    FileIfAny,
    ScheduleSettings,
    split_commas,
)

Priority = Literal["critical", "direct", "default", "low"]
PRIORITIES: tuple[Priority, ...] = ("critical", "direct", "default", "low")


class PayoutSettings(EncryptionSettings, ScheduleSettings):
    payout_accounts_file: FileIfAny | None = Field(
        default=None, description="the provider accounts that pay out, as TOML"
    )
    provider_timeout_seconds: float = Field(
        default=15, ge=0.1, le=60, description="the timeout of a call to a provider"
    )


class ApiSettings(settings.ApiSettings, PayoutSettings):
    pass


class WorkerSettings(settings.WorkerSettings, PayoutSettings):
    payout_queues: Annotated[
        list[Priority], CommaSeparated, BeforeValidator(split_commas), Field(min_length=1)
    ] = Field(default=list(PRIORITIES), description="the priorities that this worker serves")
    concurrency: int = Field(
        default=64,
        ge=4,
        le=500,
        description="the maximum number of concurrent payouts, over all priorities",
    )
    payouts_interval_seconds: float = Field(
        default=5,
        ge=0.5,
        description="the interval of the search for due payouts and unknown outcomes",
    )
    payout_status_check_delay_seconds: float = Field(
        default=5, ge=0.1, description="the delay of the status check after an unknown outcome"
    )
    payout_status_poll_delay_seconds: float = Field(
        default=600,
        ge=0.1,
        description="how long a submitted payout waits for a webhook before a status check",
    )
    payout_requeue_after_seconds: float = Field(
        default=900,
        ge=1,
        description="a due payout that no worker claimed for this long is enqueued again",
    )

    @model_validator(mode="after")
    def _queues_once(self) -> "WorkerSettings":
        if len(set(self.payout_queues)) != len(self.payout_queues):
            raise ValueError("PAYOUT_QUEUES contains a priority twice")
        return self


# Shares of the concurrency, rounded down, at least 1 each.
SHARES: dict[Priority, float] = {"critical": 0.35, "direct": 0.3, "default": 0.3, "low": 0.05}


def concurrency_of(priority: Priority, settings: WorkerSettings) -> int:
    """Return the priority's own concurrency, so that no priority waits for another."""
    whole = sum(SHARES[each] for each in settings.payout_queues)
    return max(1, int(settings.concurrency * SHARES[priority] / whole))
