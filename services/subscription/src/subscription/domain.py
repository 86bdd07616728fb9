"""What a provider's reports mean for a subscription. Pure: no I/O, no clock.

Reports come late, twice and in any order. So a subscription is not stepped from state to state: it
keeps the newest report of each kind, by an order that all reports share, and its status is a
function of those. Whatever the order of arrival, the same reports give the same subscription.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import Final

from common.contracts.subscriptions import Status

# The source of our own events.
SOURCE: Final = "/subscription"

_NEVER = datetime.min.replace(tzinfo=UTC)
# Only a subscription that went round in a circle in each of so many seconds, and whose webhooks
# overtook each other, can't be told the end of.
_SECONDS_KEPT = 3
# More are only kept of a subscription that turns and turns.
_STATUSES_KEPT = 30

# Where a subscription's usual life leads. Of two snapshots of the same second that say nothing
# better of their order the one that is further along is the newer.
_ALONG = {
    Status.INCOMPLETE: 0,
    Status.ACTIVE: 1,
    Status.PAST_DUE: 2,
    Status.UNPAID: 3,
    Status.PAUSED: 4,
    Status.EXPIRED: 5,
    Status.CANCELLED: 6,
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
    SUSPENDED = "suspended"  # the provider keeps it, and it entitles its customer to nothing
    ENDED = "ended"


ENTITLING = frozenset({Phase.ACTIVE, Phase.PAST_DUE})
# A subscription with one of these was active before, whether that was reported or not.
_WAS_ACTIVE = frozenset({Status.ACTIVE, Status.PAST_DUE, Status.UNPAID, Status.PAUSED})


_PHASE = {
    Status.INCOMPLETE: Phase.UNUSED,
    Status.ACTIVE: Phase.ACTIVE,
    Status.EXPIRED: Phase.ENDED,
    Status.CANCELLED: Phase.ENDED,
}


@dataclass(frozen=True)
class Policy:
    """What a tenant's customers are entitled to while they don't pay. Who is past due is entitled
    for `past_due_grace` since then; None is without an end."""

    past_due: bool = True
    past_due_grace: timedelta | None = timedelta(days=30)
    unpaid: bool = False
    paused: bool = False

    def past_due_until(self, since: datetime) -> datetime | None:
        """When the right of who is past due since then ends; None for never."""
        if not self.past_due:
            return since
        return since + self.past_due_grace if self.past_due_grace is not None else None


class Change(StrEnum):
    """What others are told; each is the last part of an event type."""

    ACTIVATED = "activated"
    RENEWED = "renewed"
    PAST_DUE = "past_due"
    SUSPENDED = "suspended"
    PLAN_CHANGED = "plan_changed"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Item:
    """One of the plans of a subscription. `quantity` is None where it is metered."""

    plan_id: str
    quantity: int | None = None
    current_period_end: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """What a provider says of a subscription. `cancel_at` is when it ends, if that is decided;
    `plan_id` is the first of `items`, which are empty where only one plan is named."""

    status: Status
    plan_id: str | None = None
    items: tuple[Item, ...] = ()
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None


@dataclass(frozen=True)
class Snapshot:
    """The provider's picture of a subscription at `at` (UTC, in Stripe's whole seconds): its
    `facts`, and what they were before the change that it reports, if it says so. `recorded_at` is
    when it reached us."""

    at: datetime
    event_id: str
    lifecycle: Lifecycle
    facts: Facts
    previous: Facts | None = None
    recorded_at: datetime = _NEVER

    @property
    def order(self) -> tuple[int, datetime, int, datetime, str]:
        """Of snapshots of one second that say nothing of their order."""
        return (
            self.lifecycle.along,
            self.recorded_at,
            _ALONG[self.facts.status],
            self.facts.current_period_end or _NEVER,
            self.event_id,
        )

    @property
    def seen(self) -> frozenset[Seen]:
        """What it says of statuses: which there is, and which there was until now."""
        said = [self.facts, self.previous] if self.previous is not None else [self.facts]
        return frozenset(Seen(self.at, each.status) for each in said)


@dataclass(frozen=True, order=True)
class Seen:
    """A status that a subscription had at `at` (UTC)."""

    at: datetime
    status: Status


def newest(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The one that holds, of at least one; each second begins where the one before it ended."""
    found: Snapshot | None = None
    for _, second in groupby(sorted(snapshots, key=_at), key=_at):
        found = _last_of(list(second), found)
    assert found is not None
    return found


def _last_of(second: Sequence[Snapshot], before: Snapshot | None) -> Snapshot:
    """Stripe's time stamps are whole seconds, and one call of its API may make several events. What
    was so before each change orders them: what was reached more often than left is the end, and a
    circle ends where it began. Where nothing is said of it, the order of their arrival holds.
    """
    last = max(each.lifecycle.along for each in second)
    kind = [each for each in second if each.lifecycle.along == last]
    if earlier := [each for each in second if each.lifecycle.along < last]:
        before = max(earlier, key=lambda each: each.order)
    reached: Counter[Facts] = Counter()
    for each in kind:
        if each.previous is not None:
            reached[each.facts] += 1
            reached[each.previous] -= 1
    ends = {facts for facts, count in reached.items() if count > 0}
    if reached and not ends and before is not None:
        ends = {before.facts}
    return max([each for each in kind if each.facts in ends] or kind, key=lambda each: each.order)


def _at(snapshot: Snapshot) -> datetime:
    return snapshot.at


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
    """Every snapshot of the newest seconds, the newest payment report, whether it was ever in use,
    and the statuses that it was seen with."""

    snapshots: tuple[Snapshot, ...] = ()
    payment: PaymentReport | None = None
    ever_active: bool = False
    statuses: frozenset[Seen] = frozenset()

    @property
    def snapshot(self) -> Snapshot | None:
        return newest(self.snapshots) if self.snapshots else None

    @property
    def status(self) -> Status:
        """A snapshot says it; payments speak for it only as long as there is none.

        One exception: `incomplete` comes before the first payment, so a snapshot that says it of a
        subscription that was in use is older than it looks.
        """
        if (snapshot := self.snapshot) is not None:
            if snapshot.facts.status is Status.INCOMPLETE and self.ever_active:
                return Status.ACTIVE
            return snapshot.facts.status
        if self.payment is not None and self.payment.paid:
            return Status.ACTIVE
        return Status.PAST_DUE if self.ever_active else Status.INCOMPLETE

    @property
    def since(self) -> datetime:
        """Since when it has its status, UTC: the first time that it was seen with it after the
        last time with another, for not every report comes."""
        status = self.status
        left = max((each.at for each in self.statuses if each.status is not status), default=_NEVER)
        since = [each.at for each in self.statuses if each.status is status and each.at >= left]
        if since:
            return min(since)
        if (snapshot := self.snapshot) is not None:
            return snapshot.at
        return self.payment.at if self.payment is not None else _NEVER

    def phase(self, policy: Policy, now: datetime) -> Phase:
        if not self.ever_active:
            return Phase.UNUSED
        match self.status:
            case Status.PAST_DUE:
                until = policy.past_due_until(self.since)
                return Phase.PAST_DUE if until is None or now < until else Phase.SUSPENDED
            case Status.UNPAID:
                return Phase.PAST_DUE if policy.unpaid else Phase.SUSPENDED
            case Status.PAUSED:
                return Phase.ACTIVE if policy.paused else Phase.SUSPENDED
            case settled:
                return _PHASE[settled]

    def changes_at(self, policy: Policy, now: datetime) -> datetime | None:
        """When its phase changes though nothing is reported; None for never."""
        if self.phase(policy, now) is not Phase.PAST_DUE or self.status is not Status.PAST_DUE:
            return None
        return policy.past_due_until(self.since)

    @property
    def facts(self) -> Facts:
        """Those of the newest snapshot; without one it is only known whether it is paid."""
        return self.snapshot.facts if self.snapshot else Facts(self.status)


def take_snapshot(before: Subscription, snapshot: Snapshot) -> Subscription:
    """A provider's, which is late or early: the newest holds."""
    all_ = {each.event_id: each for each in (snapshot, *before.snapshots)}
    seconds = sorted({each.at for each in all_.values()})[-_SECONDS_KEPT:]
    kept = [each for each in all_.values() if each.at in seconds]
    kept.sort(key=lambda each: (each.at, each.event_id))
    return _with(before, snapshot, tuple(kept))


def replace_snapshot(before: Subscription, snapshot: Snapshot) -> Subscription:
    """Our own, made now from all that is known: it holds."""
    return _with(before, snapshot, (snapshot,))


def _with(
    before: Subscription, snapshot: Snapshot, snapshots: tuple[Snapshot, ...]
) -> Subscription:
    seen = snapshot.seen.union(*(each.seen for each in before.snapshots))
    return replace(
        before,
        snapshots=snapshots,
        ever_active=before.ever_active or snapshot.facts.status in _WAS_ACTIVE,
        statuses=_fewer(before.statuses | seen),
    )


def _fewer(statuses: frozenset[Seen]) -> frozenset[Seen]:
    """Without the oldest of those that only repeat what was so before and is so after."""
    kept = sorted(statuses)
    place = 1
    while len(kept) > _STATUSES_KEPT and place < len(kept) - 1:
        if kept[place - 1].status is kept[place].status is kept[place + 1].status:
            del kept[place]
        else:
            place += 1
    return frozenset(kept[-_STATUSES_KEPT:])


def take_payment(before: Subscription, report: PaymentReport) -> Subscription:
    is_newer = before.payment is None or report.order > before.payment.order
    return replace(
        before,
        payment=report if is_newer else before.payment,
        ever_active=before.ever_active or report.paid,
    )


def changes(before: tuple[Subscription, Phase], after: tuple[Subscription, Phase]) -> list[Change]:
    """What to tell others, in order.

    The last `activated`, `suspended` or `cancelled` that was told always agrees with the phase, so
    those who follow only these end in the same state for every order of arrival.
    """
    told = list(_TOLD.get((before[1], after[1]), ()))
    if Change.CANCELLED in told and after[0].status is Status.EXPIRED:
        told.insert(-1, Change.EXPIRED)
    if before[1] in ENTITLING and after[1] in ENTITLING:
        told += _contract_changes(before[0], after[0])
    return told


# A late report may show for the first time that a subscription was in use, after its end is known:
# then both are told. What is not listed is not news.
_TOLD: Mapping[tuple[Phase, Phase], tuple[Change, ...]] = {
    (Phase.UNUSED, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.UNUSED, Phase.PAST_DUE): (Change.ACTIVATED, Change.PAST_DUE),
    (Phase.UNUSED, Phase.SUSPENDED): (Change.ACTIVATED, Change.SUSPENDED),
    (Phase.UNUSED, Phase.ENDED): (Change.ACTIVATED, Change.CANCELLED),
    (Phase.ACTIVE, Phase.PAST_DUE): (Change.PAST_DUE,),
    (Phase.ACTIVE, Phase.SUSPENDED): (Change.SUSPENDED,),
    (Phase.ACTIVE, Phase.ENDED): (Change.CANCELLED,),
    (Phase.PAST_DUE, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.PAST_DUE, Phase.SUSPENDED): (Change.SUSPENDED,),
    (Phase.PAST_DUE, Phase.ENDED): (Change.CANCELLED,),
    (Phase.SUSPENDED, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.SUSPENDED, Phase.PAST_DUE): (Change.ACTIVATED, Change.PAST_DUE),
    (Phase.SUSPENDED, Phase.ENDED): (Change.CANCELLED,),
    (Phase.ENDED, Phase.ACTIVE): (Change.ACTIVATED,),
    (Phase.ENDED, Phase.PAST_DUE): (Change.ACTIVATED, Change.PAST_DUE),
    (Phase.ENDED, Phase.SUSPENDED): (Change.SUSPENDED,),
}


def _contract_changes(before: Subscription, after: Subscription) -> list[Change]:
    found = []
    old, new = before.facts, after.facts
    old_end, new_end = old.current_period_end, new.current_period_end
    if after.status is Status.ACTIVE and old_end and new_end and new_end > old_end:
        found.append(Change.RENEWED)
    if old.plan_id and new.plan_id and _sold(old, new) != _sold(new, old):
        found.append(Change.PLAN_CHANGED)
    return found


def _sold(facts: Facts, other: Facts) -> Counter[tuple[str | None, int | None]]:
    """Each plan with its quantity, as far as both say so."""
    if facts.items and other.items:
        return Counter((each.plan_id, each.quantity) for each in facts.items)
    return Counter([(facts.plan_id, None)])


@dataclass(frozen=True)
class VersionedValue:
    """A value and the report that it came with; the newest report's value holds."""

    value: str | None = None
    at: datetime = _NEVER
    event_id: str = ""

    def or_newer(self, value: str | None, at: datetime, event_id: str) -> VersionedValue:
        """A report without a value says nothing."""
        if value is None or (at, event_id) <= (self.at, self.event_id):
            return self
        return VersionedValue(value, at, event_id)


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
