"""The scheduled jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.contracts.topology import JOURNAL_DAYS
from common.messaging.outbox import UnitOfWork
from common.scheduling.scheduler import Cron, Schedule
from operations.repository import dead_letters, monitoring, replays

SERVICE = "operations"


class Jobs:
    """`retention` is how long resolved dead letters and finished replays are stored."""

    def __init__(self, *, retention: timedelta) -> None:
        self._retention = retention

    def schedule(self) -> Sequence[Schedule]:
        return (Schedule("clean-up", Cron("10 4 * * *"), self.clean_up),)

    async def clean_up(self, work: UnitOfWork, _: Event[RunJob]) -> str:
        """Delete resolved dead letters, finished replays, and journal entries whose events the
        stream has deleted. Open dead letters stay, and so does the action log."""
        await replays.allow_minutes(work.session)
        letters = await dead_letters.delete_resolved(work.session, self._retention)
        finished = await replays.delete_finished(work.session, self._retention)
        age = timedelta(days=JOURNAL_DAYS + 1)
        entries = await monitoring.delete_journal_entries(work.session, age)
        return f"{letters} dead letters, {finished} replays and {entries} journal entries deleted"
