"""What the clock does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, text

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.contracts.topology import JOURNAL_DAYS
from common.messaging.outbox import UnitOfWork
from common.scheduling.scheduler import Cron, Schedule
from operations.domain import UNSETTLED, LetterState, ReplayState
from operations.models import DeadLetter, DeadLetterNote, JournalEntry, Replay, ReplayItem

SERVICE = "operations"


class Jobs:
    """`keep` is how long what is settled stays to be seen."""

    def __init__(self, *, keep: timedelta) -> None:
        self._keep = keep

    def schedule(self) -> Sequence[Schedule]:
        return (Schedule("clean-up", Cron("10 4 * * *"), self.clean_up),)

    async def clean_up(self, work: UnitOfWork, _: Event[RunJob]) -> str:
        """Removes settled dead letters, finished replays, and journal entries whose events the
        stream has forgotten. Open ones stay for ever, and who did what."""
        await work.session.execute(text("SET LOCAL statement_timeout = '300s'"))
        old = func.now() - self._keep
        kept = (LetterState.OPEN, LetterState.REPLAYING)
        letters = await work.session.execute(
            delete(DeadLetter)
            .where(DeadLetter.state.not_in(kept), DeadLetter.resolved_at < old)
            .returning(DeadLetter.id)
        )
        await work.session.execute(
            delete(DeadLetterNote).where(
                DeadLetterNote.dead_letter_id.not_in(select(DeadLetter.id))
            )
        )
        over = (ReplayState.DONE, ReplayState.CANCELLED)
        replays = await work.session.execute(
            delete(Replay)
            .where(
                Replay.state.in_(over),
                Replay.created_at < old,
                ~select(ReplayItem.id)
                .where(ReplayItem.replay_id == Replay.id, ReplayItem.state.in_(UNSETTLED))
                .exists(),
            )
            .returning(Replay.id)
        )
        await work.session.execute(
            delete(ReplayItem).where(ReplayItem.replay_id.not_in(select(Replay.id)))
        )
        forgotten = func.now() - timedelta(days=JOURNAL_DAYS + 1)
        entries = await work.session.execute(
            delete(JournalEntry).where(JournalEntry.recorded_at < forgotten)
        )
        return (
            f"{len(letters.all())} dead letters, {len(replays.all())} replays and "
            f"{entries.rowcount} journal entries removed"  # type: ignore[attr-defined]
        )
