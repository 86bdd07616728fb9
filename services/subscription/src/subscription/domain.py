"""What a provider's reports mean for a subscription. Pure: no I/O, no clock.

Reports come late, twice and in any order. So a subscription is not stepped from state to state: it
keeps the newest report of each kind, by an order that all reports share, and its status is a
function of those. Whatever the order of arrival, the same reports give the same subscription.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from common.contracts.subscriptions import Status

_NEVER = datetime.min.replace(tzinfo=UTC)

# Stripe's time stamps are whole seconds. Of two snapshots of the same second the one that is
# further along a subscription's usual life is taken for the newer.
_ALONG = {
    Status.INCOMPLETE: 0,
    Status.ACTIVE: 1,
    Status.PAST_DUE: 2,
    Status.EXPIRED: 3,
    Status.CANCELLED: 4,
}


class Lifecycle(StrEnum):
    """Which of a provider's three subscription events a snapshot came with."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"

    @property
    def along(self) -> int:
        return list(Lifecycle).index(self)


class Phase(StrEnum):
    """Where a subscription stands for those who act on it."""

    UNUSED = "unused"  # never was active, whatever its status
    ACTIVE = "active"
    PAST_DUE = "past_due"
    ENDED = "ended"


_PHASE = {
    Status.INCOMPLETE: Phase.UNUSED,
    Status.ACTIVE: Phase.ACTIVE,
    Status.PAST_DUE: Phase.PAST_DUE,
    Status.EXPIRED: Phase.ENDED,
    Status.CANCELLED: Phase.ENDED,
}
_IN_USE = frozenset({Phase.ACTIVE, Phase.PAST_DUE})


class Change(StrEnum):
    """What others are told; each is the last part of an event type."""

    ACTIVATED = "activated"
    RENEWED = "renewed"
    PAST_DUE = "past_due"
    PLAN_CHANGED = "plan_changed"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Snapshot:
    """The provider's picture of a subscription at `at` (UTC)."""

    at: datetime
    event_id: str
    lifecycle: Lifecycle
    status: Status
    plan_id: str | None = None
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False

    @property
    def order(self) -> tuple[datetime, int, int, datetime, str]:
        return (
            self.at,
            self.lifecycle.along,
            _ALONG[self.status],
            self.current_period_end or _NEVER,
            self.event_id,
        )


@dataclass(frozen=True)
class PaymentReport:
    """A payment for the subscription succeeded or failed at `at` (UTC)."""

    at: datetime
    event_id: str
    paid: bool

    @property
    def order(self) -> tuple[datetime, bool, str]:
        return self.at, self.paid, self.event_id


@dataclass(frozen=True)
class Subscription:
    """The newest snapshot and payment report, and whether it was ever in use."""

    snapshot: Snapshot | None = None
    payment: PaymentReport | None = None
    ever_active: bool = False

    @property
    def status(self) -> Status:
        """A snapshot says it; payments speak for it only as long as there is none.

        One exception: `incomplete` comes before the first payment, so a snapshot that says it of a
        subscription that was in use is older than it looks.
        """
        if self.snapshot is not None:
            if self.snapshot.status is Status.INCOMPLETE and self.ever_active:
                return Status.ACTIVE
            return self.snapshot.status
        if self.payment is not None and self.payment.paid:
            return Status.ACTIVE
        return Status.PAST_DUE if self.ever_active else Status.INCOMPLETE

    @property
    def phase(self) -> Phase:
        return _PHASE[self.status] if self.ever_active else Phase.UNUSED

    @property
    def plan_id(self) -> str | None:
        return self.snapshot.plan_id if self.snapshot else None

    @property
    def current_period_end(self) -> datetime | None:
        return self.snapshot.current_period_end if self.snapshot else None

    @property
    def cancel_at_period_end(self) -> bool:
        return self.snapshot.cancel_at_period_end if self.snapshot else False


def take_snapshot(before: Subscription, snapshot: Snapshot) -> tuple[Subscription, list[Change]]:
    """A provider's, which is late or early: the newest holds."""
    newest = before.snapshot is None or snapshot.order > before.snapshot.order
    return _with(before, snapshot, newest=newest)


def replace_snapshot(before: Subscription, snapshot: Snapshot) -> tuple[Subscription, list[Change]]:
    """Our own, made now from all that is known: it holds."""
    return _with(before, snapshot, newest=True)


def _with(
    before: Subscription, snapshot: Snapshot, *, newest: bool
) -> tuple[Subscription, list[Change]]:
    after = replace(
        before,
        snapshot=snapshot if newest else before.snapshot,
        ever_active=before.ever_active or _PHASE[snapshot.status] in _IN_USE,
    )
    return after, changes(before, after)


def take_payment(before: Subscription, report: PaymentReport) -> tuple[Subscription, list[Change]]:
    newest = before.payment is None or report.order > before.payment.order
    after = replace(
        before,
        payment=report if newest else before.payment,
        ever_active=before.ever_active or report.paid,
    )
    return after, changes(before, after)


def changes(before: Subscription, after: Subscription) -> list[Change]:
    """What to tell others, in order.

    The last `activated` or `cancelled` that was told always agrees with the phase, so those who
    follow only these two end in the same state for every order of arrival.
    """
    told = list(_TOLD.get((before.phase, after.phase), ()))
    if Change.CANCELLED in told and after.status is Status.EXPIRED:
        told.insert(-1, Change.EXPIRED)
    if before.phase in _IN_USE and after.phase in _IN_USE:
        told += _contract_changes(before, after)
    return told


# A late report may show for the first time that a subscription was in use, after its end is known:
# then both are told. What is not listed is not news.
_TOLD: Mapping[tuple[Phase, Phase], tuple[Change, ...]] = {
    (Phase.UNUSED, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.UNUSED, Phase.PAST_DUE): (Change.ACTIVATED, Change.PAST_DUE),
    (Phase.UNUSED, Phase.ENDED): (Change.ACTIVATED, Change.CANCELLED),
    (Phase.ACTIVE, Phase.PAST_DUE): (Change.PAST_DUE,),
    (Phase.ACTIVE, Phase.ENDED): (Change.CANCELLED,),
    (Phase.PAST_DUE, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.PAST_DUE, Phase.ENDED): (Change.CANCELLED,),
    (Phase.ENDED, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.ENDED, Phase.PAST_DUE): (Change.ACTIVATED, Change.PAST_DUE),
}


def _contract_changes(before: Subscription, after: Subscription) -> list[Change]:
    found = []
    old_end, new_end = before.current_period_end, after.current_period_end
    if after.status is Status.ACTIVE and old_end and new_end and new_end > old_end:
        found.append(Change.RENEWED)
    if before.plan_id and after.plan_id and before.plan_id != after.plan_id:
        found.append(Change.PLAN_CHANGED)
    return found


@dataclass(frozen=True)
class Known:
    """A value and the report that it came with; the newest report's value holds."""

    value: str | None = None
    at: datetime = _NEVER
    event_id: str = ""

    def or_newer(self, value: str | None, at: datetime, event_id: str) -> Known:
        """A report without a value says nothing."""
        if value is None or (at, event_id) <= (self.at, self.event_id):
            return self
        return Known(value, at, event_id)


@dataclass(frozen=True)
class Payment:
    """What is known of one payment: a success outlasts every failure, before or after it."""

    paid: bool
    at: datetime
    event_id: str
    amount: int
    currency: str
    reason: str | None = None

    @property
    def order(self) -> tuple[bool, datetime, str]:
        return self.paid, self.at, self.event_id
