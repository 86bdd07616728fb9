"""Operators' actions: one engine behind the API, the command line and the console.

Callers of the tenant that operates Paybus may see and do everything; others only what belongs to
their own tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts import topology
from common.errors import Conflict, Forbidden, Invalid, NotFound
from common.http.auth import Caller, Role
from common.messaging.journal import CLOCKS_DIFFER
from common.observability.redaction import Redactor
from common.security.encryption import SecretBox
from operations import action_log
from operations.dead_letters import masking
from operations.domain import UNSETTLED, LetterState, ReplayState
from operations.models import DeadLetter, DeadLetterNote, JournalEntry, Replay
from operations.replay import planner
from operations.replay.journal_window import JournalWindow
from operations.replay.payout_guard import PayoutReplayGuard
from operations.replay.planner import DryRunResult
from operations.repository import dead_letters, monitoring, replays
from operations.schemas import (
    EntryView,
    GroupView,
    LetterDetail,
    LetterView,
    NoteView,
    ReplayView,
    Step,
    Trace,
    shown,
)
from operations.selection import Filter, ReplayRequest, is_masked

_MOVES_MONEY = (
    "earnings.",
    "payout.",
    "refund.",
    "checkout.",
    "provider_transfer.",
    "provider_payout.",
    "payment.succeeded",
    "payment.duplicated",
)
# Their commands may already have made a provider send money.
_OF_PAYOUT_COMMANDS = frozenset(
    queue.name
    for queue in topology.QUEUES
    if any(binding.pattern.startswith("payout.process.") for binding in queue.bindings)
)
_NEIGHBOURS = 20
_MAX_NOTES = 200
_FIRST_YEAR = 2020
_CLOSED = {
    LetterState.ARCHIVED: (LetterState.OPEN,),
    LetterState.DISCARDED: (LetterState.OPEN, LetterState.ARCHIVED),
    LetterState.OPEN: (LetterState.ARCHIVED, LetterState.DISCARDED),
}
_VERBS = {
    LetterState.ARCHIVED: "archive",
    LetterState.DISCARDED: "discard",
    LetterState.OPEN: "restore",
}


@dataclass(frozen=True)
class OperatorService:
    """`tenant` is the one that operates Paybus."""

    tenant: str
    redact: Redactor
    vault: SecretBox
    payouts: PayoutReplayGuard
    editing: bool

    def scope(self, caller: Caller) -> str | None:
        """Return the tenant to whose rows the caller is limited; None for no limit."""
        return None if caller.tenant == self.tenant else caller.tenant

    def only_operating(self, caller: Caller) -> None:
        if caller.tenant != self.tenant:
            raise Forbidden("this concerns all tenants: only the operating tenant may do it")

    async def letter(self, session: AsyncSession, caller: Caller, id_: str) -> DeadLetter:
        """Return a dead letter. Raises `NotFound`, also for another tenant's."""
        letter = await session.get(DeadLetter, id_)
        scope = self.scope(caller)
        if letter is None or (scope is not None and letter.tenant != scope):
            raise NotFound(f"no dead letter has the id {id_!r}")
        return letter

    async def lines(self, letters: Sequence[DeadLetter]) -> list[LetterView]:
        """Return dead letters as lists display them. Masking long texts takes a while, so it runs
        off the event loop."""
        return await asyncio.to_thread(lambda: [self._line(each) for each in letters])

    def _line(self, letter: DeadLetter) -> LetterView:
        view = LetterView.model_validate(letter)
        return view.model_copy(update={"error": self._masked(letter.error)})

    async def groups(
        self, session: AsyncSession, caller: Caller, request: Filter
    ) -> list[GroupView]:
        rows = await dead_letters.groups(session, request, self.scope(caller))
        found = await shown(GroupView, rows)
        return await asyncio.to_thread(
            lambda: [
                each.model_copy(update={"summary": self._masked(each.summary)}) for each in found
            ]
        )

    def _masked(self, text: str) -> str:
        return masking.masked_text(text, self.redact)

    async def detail(self, session: AsyncSession, caller: Caller, id_: str) -> LetterDetail:
        letter = await self.letter(session, caller, id_)
        notes = await dead_letters.notes(session, id_, _MAX_NOTES)
        neighbours: Sequence[JournalEntry] = ()
        if letter.subject is not None:
            neighbours = await monitoring.of_subject(
                session, letter.subject, letter.tenant, _NEIGHBOURS
            )
        shown_notes = [NoteView.model_validate(each) for each in notes]
        return await asyncio.to_thread(self._detail, letter, shown_notes, neighbours)

    def _detail(
        self, letter: DeadLetter, notes: list[NoteView], neighbours: Sequence[JournalEntry]
    ) -> LetterDetail:
        body = self.vault.open_bytes(letter.sealed_body)
        return LetterDetail(
            **self._line(letter).model_dump(),
            event_id=letter.event_id,
            source=letter.source,
            time=letter.time,
            recorded_at=letter.recorded_at,
            stored_at=letter.stored_at,
            payload=masking.masked(body, self.redact),
            history=[self._attempt(each) for each in letter.history],
            stack=masking.masked_text(letter.stack, self.redact),
            resolved_at=letter.resolved_at,
            resolved_by=letter.resolved_by,
            resolution_reason=letter.resolution_reason,
            notes=notes,
            neighbours=[EntryView.model_validate(each) for each in neighbours],
        )

    def _attempt(self, entry: Mapping[str, str]) -> dict[str, str]:
        return {name: masking.masked_text(value, self.redact) for name, value in entry.items()}

    async def write_note(
        self, session: AsyncSession, caller: Caller, id_: str, text: str
    ) -> NoteView:
        await self.letter(session, caller, id_)
        if await dead_letters.count_notes(session, id_) >= _MAX_NOTES:
            raise Conflict(f"a dead letter can have up to {_MAX_NOTES} notes")
        note = DeadLetterNote(id=uuid4().hex, dead_letter_id=id_, actor=caller.subject, text=text)
        session.add(note)
        await session.flush()
        await session.refresh(note)
        return NoteView.model_validate(note)

    async def set_state(
        self, session: AsyncSession, caller: Caller, wish: ReplayRequest, to: LetterState
    ) -> int:
        """Archive, discard or restore dead letters; return their number. Those in a running replay
        are not changed. Raises `Conflict` if there are none to change."""
        meant = dead_letters.requested(wish, self.scope(caller))
        reopens = to is LetterState.OPEN
        if reopens and wish.ids is not None:
            await planner.abandon_items(session, await dead_letters.ids_of(session, meant))
        values = {
            "state": to,
            "resolved_at": None if reopens else func.now(),
            "resolved_by": None if reopens else caller.subject,
            "resolution_reason": None if reopens else wish.reason,
        }
        moved = await dead_letters.move(session, meant, _CLOSED[to], values)
        chosen = wish.ids if reopens and not moved else None
        if chosen is not None and await dead_letters.count(session, meant, to):
            return len(chosen)  # abandoned just now
        if not moved:
            raise Conflict(f"there is nothing to {_VERBS[to]}: no such dead letter can be")
        subject = f"letter/{moved[0]}" if len(moved) == 1 else f"{len(moved)} letters"
        action_log.note(session, caller, _VERBS[to], subject, wish.reason)
        return len(moved)

    async def blocked_letters(
        self, session: AsyncSession, caller: Caller, wish: ReplayRequest, token: str
    ) -> Mapping[str, str]:
        """Return which dead letters must not be sent again, and why; ends the transaction."""
        return await self.payouts.refused(
            session, planner.conditions(wish, self.scope(caller)), token
        )

    async def dry_run(
        self, session: AsyncSession, caller: Caller, wish: ReplayRequest, token: str
    ) -> DryRunResult:
        refused = await self.blocked_letters(session, caller, wish, token)
        return await planner.dry_run(session, wish, self.scope(caller), refused)

    async def replay(
        self, session: AsyncSession, caller: Caller, wish: ReplayRequest, token: str
    ) -> ReplayView:
        refused = await self.blocked_letters(session, caller, wish, token)
        async with session.begin():
            replay = await planner.create_replay(
                session, wish, caller, self.scope(caller), refused, window=self.payouts.window
            )
            return await self.show_replay(session, replay)

    async def edit(
        self,
        session: AsyncSession,
        caller: Caller,
        id_: str,
        changes: Mapping[str, Any],
        reason: str,
    ) -> ReplayView:
        """Replay a dead letter with changed data. Raises `Forbidden` if editing is off or the event
        moves money, `Conflict` unless it is an open event, `Invalid` if the data do not fit its
        type."""
        if not self.editing:
            raise Forbidden(
                "editing is disabled: EDIT_AND_REPLAY_ENABLED=true enables it for admins"
            )
        async with session.begin():
            letter = await self.letter(session, caller, id_)
            if letter.type.startswith(_MOVES_MONEY):
                raise Forbidden(
                    "an event that moves money can't be edited, because that requires two "
                    "people: create the payout or the refund again"
                )
            replay = await planner.replay_edited(session, caller, id_, changes, reason, self.vault)
            return await self.show_replay(session, replay)

    async def replay_window(
        self,
        session: AsyncSession,
        caller: Caller,
        window: JournalWindow,
        reason: str,
        rate: int | None,
        concurrency: int,
    ) -> ReplayView:
        """Replay a window of the journal. Raises `Invalid` for an unknown queue, a window that
        ends before it begins, or one that is too old; `Forbidden` for new ids without the role
        `admin`."""
        self.only_operating(caller)
        if window.queue not in {each.name for each in topology.QUEUES}:
            raise Invalid(f"{window.queue!r} is not a queue")
        if window.until <= window.since:
            raise Invalid("until must be after since")
        old = datetime.now(UTC) - self.payouts.window
        if window.queue in _OF_PAYOUT_COMMANDS and window.since < old:
            hours = self.payouts.window.total_seconds() / 3600
            raise Invalid(f"payout commands are not replayed after {hours:g} h (since)")
        if window.new_ids and caller.role < Role.ADMIN:
            raise Forbidden("new ids repeat the effects: this needs the role `admin`")
        if window.since.year < _FIRST_YEAR:
            raise Invalid("since is before the journal begins")
        # Fix the set now, even if `until` is later. The clocks of the services that recorded the
        # events may differ from ours.
        latest = datetime.now(UTC) + CLOCKS_DIFFER
        window = window.model_copy(update={"until": min(window.until, latest)})
        what = f"journal to {window.queue}, {window.since:%Y-%m-%d %H:%M:%S} to "
        what += f"{window.until:%Y-%m-%d %H:%M:%S} UTC{', with new ids' if window.new_ids else ''}"
        replay = Replay(
            id=uuid4().hex,
            state=ReplayState.PREPARING,
            description=what,
            reason=reason,
            tenant=caller.tenant,
            created_by=caller.subject,
            rate=rate,
            concurrency=concurrency,
            journal=window.model_dump(mode="json"),
        )
        async with session.begin():
            session.add(replay)
            action_log.note(session, caller, "replay journal", f"replay/{replay.id}", reason)
            await session.flush()
            await session.refresh(replay)
            return await self.show_replay(session, replay)

    async def find_replay(self, session: AsyncSession, caller: Caller, id_: str) -> Replay:
        replay = await session.get(Replay, id_, populate_existing=True)
        scope = self.scope(caller)
        if replay is None or (scope is not None and replay.tenant != scope):
            raise NotFound(f"no replay has the id {id_!r}")
        return replay

    async def show_replay(self, session: AsyncSession, replay: Replay) -> ReplayView:
        counts = await replays.counts(session, replay.id)
        total = sum(counts.values())
        completed = total - sum(counts.get(state, 0) for state in UNSETTLED)
        remaining = None
        if replay.state == ReplayState.RUNNING and replay.started_at is not None and completed:
            spent = (await replays.clock(session) - replay.started_at).total_seconds()
            remaining = round(spent / completed * (total - completed), 1)
        fields = {name: getattr(replay, name) for name in ReplayView.model_fields if name in _OWN}
        fields["description"] = masking.masked_text(replay.description, self.redact)
        return ReplayView(
            **fields, counts=counts, total=total, completed=completed, remaining_seconds=remaining
        )

    async def trace(self, session: AsyncSession, caller: Caller, id_: str) -> Trace:
        """Return a trace. Raises `NotFound` if neither the journal nor a dead letter has the id."""
        if is_masked(id_):
            raise NotFound("masked values can't be searched")
        scope = self.scope(caller)
        entries = await monitoring.of_correlation(session, id_, scope)
        letters = await dead_letters.of_correlation(session, id_, scope)
        if not entries and not letters:
            raise NotFound(f"no event has the correlation id {id_!r}")
        first = entries[0].recorded_at if entries else None
        steps = [
            Step(
                after_seconds=round((each.recorded_at - first).total_seconds(), 3) if first else 0,
                entry=each,
            )
            for each in await shown(EntryView, entries)
        ]
        return Trace(correlation_id=id_, steps=steps, dead_letters=await self.lines(letters))


_OWN = frozenset(
    {
        "id", "state", "description", "reason", "created_by", "created_at", "started_at",
        "finished_at", "rate", "concurrency", "error",
    }
)  # fmt: skip
