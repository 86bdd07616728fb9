"""Scheduled jobs: renewals of our own subscriptions, and unfinished commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from common.scheduling.scheduler import Every, Schedule
from subscription.billing import commands
from subscription.subscriptions import renewals

SERVICE = "subscription"


def schedule(interval: timedelta) -> Sequence[Schedule]:
    return (
        Schedule(renewals.JOB, Every(interval), renewals.run),
        Schedule("open-commands", Every(interval), commands.run_job),
    )
