"""Effect of a provider's reports on a subscription. Pure: no I/O, no clock.

Reports arrive late, more than once and in any order. So a subscription does not step from state to
state: it stores the newest report of each kind, by an order common to all reports, and its status
is a function of those. The same reports give the same subscription in any order of arrival.
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

# The `source` of this service's events.
SOURCE: Final = "/subscription"

_NEVER = datetime.min.replace(tzinfo=UTC)
# The last state is ambiguous only for a subscription that went through a circle of states within
# each of this many seconds, and whose webhooks arrived out of order.
_SECONDS_KEPT = 3
# Only a subscription that alternates between statuses has more; the oldest are dropped.
_STATUSES_KEPT = 30

# The usual course of a subscription. Of two snapshots of the same second without better evidence of
# their order, the one further along counts as newer.
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
    """The subscription event, one of a provider's three, that a snapshot came with."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"

    @property
    def along(self) -> int:
        return list(Lifecycle).index(self)


class Phase(StrEnum):
    """Phase of a subscription, as its consumers see it."""

    UNUSED = "unused"  # never active, whatever its status
    ACTIVE = "active"
    PAST_DUE = "past_due"
    SUSPENDED = "suspended"  # the provider retains it, but it gives no entitlement
    ENDED = "ended"


ENTITLING = frozenset({Phase.ACTIVE, Phase.PAST_DUE})
# A subscription with one of these was active before, whether or not that was reported.
_WAS_ACTIVE = frozenset({Status.ACTIVE, Status.PAST_DUE, Status.UNPAID, Status.PAUSED})


_PHASE = {
    Status.INCOMPLETE: Phase.UNUSED,
    Status.ACTIVE: Phase.ACTIVE,
    Status.EXPIRED: Phase.ENDED,
    Status.CANCELLED: Phase.ENDED,
}


@dataclass(frozen=True)
class Policy:
    """Entitlements of a tenant's customers while they do not pay. A past-due customer is entitled
    for `past_due_grace` from then on; None means without limit. `refunded` and `disputed` are about
    the newest payment."""

    past_due: bool = True
    past_due_grace: timedelta | None = timedelta(days=30)
    unpaid: bool = False
    paused: bool = False
    trialing: bool = True
    collection_paused: bool = True
    refunded: bool = True
    disputed: bool = True

    def past_due_until(self, since: datetime) -> datetime | None:
        """Return when the entitlement of a customer past due since `since` ends; None: never."""
        if not self.past_due:
            return since
        return since + self.past_due_grace if self.past_due_grace is not None else None


class Change(StrEnum):
    """Published change of a subscription; each value is the last part of an event type."""

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
    """One of the plans of a subscription. `quantity` is None for a metered plan."""

    plan_id: str
    quantity: int | None = None
    current_period_end: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """A provider's statements about a subscription. `cancel_at` is when it ends, if that is
    decided; `plan_id` is the first of `items`, which is empty if only one plan is named."""

    status: Status
    plan_id: str | None = None
    items: tuple[Item, ...] = ()
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None
    trialing: bool = False
    collection_paused: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The provider's view of a subscription at `at` (UTC, in Stripe's whole seconds): its `facts`,
    and `previous`, the facts before the reported change if the provider states them. `recorded_at`
    is when the report reached Paybus."""

    at: datetime
    event_id: str
    lifecycle: Lifecycle
    facts: Facts
    previous: Facts | None = None
    recorded_at: datetime = _NEVER

    @property
    def order(self) -> tuple[int, datetime, int, datetime, str]:
        """Order of snapshots of the same second that do not state their order."""
        return (
            self.lifecycle.along,
            self.recorded_at,
            _ALONG[self.facts.status],
            self.facts.current_period_end or _NEVER,
            self.event_id,
        )

    @property
    def seen(self) -> frozenset[Seen]:
        """Return the statuses in the snapshot: the current one and, if given, the previous one."""
        said = [self.facts, self.previous] if self.previous is not None else [self.facts]
        return frozenset(Seen(self.at, each.status) for each in said)


@dataclass(frozen=True, order=True)
class Seen:
    """A status that a subscription had at `at` (UTC)."""

    at: datetime
    status: Status


def newest(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the snapshot that applies, of at least one; each second continues the one before."""
    found: Snapshot | None = None
    for _, second in groupby(sorted(snapshots, key=_at), key=_at):
        found = _last_of(list(second), found)
    assert found is not None
    return found


def _last_of(second: Sequence[Snapshot], before: Snapshot | None) -> Snapshot:
    """Return the last snapshot of one second.

    Stripe's timestamps are whole seconds, and one call of its API may create several events. They
    are ordered by the facts before each change: the state reached more often than left is the end,
    and a circle ends where it began. Without those facts, the order of arrival decides.
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
    """Success or failure of a payment for the subscription at `at` (UTC)."""

    at: datetime
    event_id: str
    paid: bool

    @property
    def order(self) -> tuple[datetime, bool, str]:
        return self.at, self.paid, self.event_id


@dataclass(frozen=True)
class Subscription:
    """A subscription's snapshots of the newest seconds, its newest payment report, whether it was
    ever active, the statuses it was seen with, whether its newest payment was refunded in full or
    is disputed, and whether it was ever active and not on trial."""

    snapshots: tuple[Snapshot, ...] = ()
    payment: PaymentReport | None = None
    ever_active: bool = False
    statuses: frozenset[Seen] = frozenset()
    refunded: bool = False
    disputed: bool = False
    ever_beyond_trial: bool = False

    @property
    def snapshot(self) -> Snapshot | None:
        return newest(self.snapshots) if self.snapshots else None

    @property
    def status(self) -> Status:
        """Return the newest snapshot's status; payments decide only while there is no snapshot.

        One exception: `incomplete` precedes the first payment, so a snapshot with that status of a
        subscription that was active is older than it looks.
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
        """Return when the current status began (UTC): the first time the subscription was seen with
        it after the last time with another one, since reports may be missing."""
        status = self.status
        left = max((each.at for each in self.statuses if each.status is not status), default=_NEVER)
        since = [each.at for each in self.statuses if each.status is status and each.at >= left]
        if since:
            return min(since)
        if (snapshot := self.snapshot) is not None:
            return snapshot.at
        return self.payment.at if self.payment is not None else _NEVER

    def phase(self, policy: Policy, now: datetime, published: Phase = Phase.UNUSED) -> Phase:
        """Return the phase. A trial that gives no entitlement begins nothing: the phase stays
        unused if that is what was `published`."""
        only_trial = bool(self.snapshots) and not (policy.trialing or self.ever_beyond_trial)
        if not self.ever_active or (only_trial and published is Phase.UNUSED):
            return Phase.UNUSED
        phase = self._phase_of_status(policy, now)
        return Phase.SUSPENDED if phase in ENTITLING and self._is_withheld(policy) else phase

    def _is_withheld(self, policy: Policy) -> bool:
        facts = self.facts
        return (
            (facts.trialing and not policy.trialing)
            or (facts.collection_paused and not policy.collection_paused)
            or (self.refunded and not policy.refunded)
            or (self.disputed and not policy.disputed)
        )

    def _phase_of_status(self, policy: Policy, now: datetime) -> Phase:
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
        """Return when the phase changes without a report (UTC); None for never."""
        if self.phase(policy, now) is not Phase.PAST_DUE or self.status is not Status.PAST_DUE:
            return None
        return policy.past_due_until(self.since)

    @property
    def facts(self) -> Facts:
        """Return the newest snapshot's facts; without one, only the status that payments show."""
        return self.snapshot.facts if self.snapshot else Facts(self.status)


def take_snapshot(before: Subscription, snapshot: Snapshot) -> Subscription:
    """Apply a provider's snapshot, which may be late or out of order: the newest one applies."""
    all_ = {each.event_id: each for each in (snapshot, *before.snapshots)}
    seconds = sorted({each.at for each in all_.values()})[-_SECONDS_KEPT:]
    kept = [each for each in all_.values() if each.at in seconds]
    kept.sort(key=lambda each: (each.at, each.event_id))
    return _with(before, snapshot, tuple(kept))


def replace_snapshot(before: Subscription, snapshot: Snapshot) -> Subscription:
    """Apply our own snapshot, computed now from all that is known: it replaces all others."""
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
        ever_beyond_trial=before.ever_beyond_trial
        or (snapshot.facts.status in _WAS_ACTIVE and not snapshot.facts.trialing),
    )


def _fewer(statuses: frozenset[Seen]) -> frozenset[Seen]:
    """Drop the oldest statuses that equal the ones before and after them, down to the limit."""
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
    """Return the changes to publish, in order.

    The last `activated`, `suspended` or `cancelled` published always matches the phase, so
    consumers of only these reach the same state for every order of arrival.
    """
    changes = list(_PUBLISHED_CHANGES.get((before[1], after[1]), ()))
    if Change.CANCELLED in changes and after[0].status is Status.EXPIRED:
        changes.insert(-1, Change.EXPIRED)
    if before[1] in ENTITLING and after[1] in ENTITLING:
        changes += _contract_changes(before[0], after[0])
    return changes


# A late report may be the first to show that a subscription was active, when its end is already
# known: then both are published. A transition that is not listed publishes nothing.
_PUBLISHED_CHANGES: Mapping[tuple[Phase, Phase], tuple[Change, ...]] = {
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
    """Count each plan with its quantity, or only the plan if either side has no items."""
    if facts.items and other.items:
        return Counter((each.plan_id, each.quantity) for each in facts.items)
    return Counter([(facts.plan_id, None)])


@dataclass(frozen=True)
class VersionedValue:
    """A value with the report it came from; the newest report's value applies."""

    value: str | None = None
    at: datetime = _NEVER
    event_id: str = ""

    def or_newer(self, value: str | None, at: datetime, event_id: str) -> VersionedValue:
        """Return the newer value; a report without a value changes nothing."""
        if value is None or (at, event_id) <= (self.at, self.event_id):
            return self
        return VersionedValue(value, at, event_id)

    def erased(self, at: datetime, event_id: str) -> VersionedValue:
        """Return no value as of `at`, unless a newer one is known."""
        if at < self.at:
            return self
        return VersionedValue(None, at, event_id)


@dataclass(frozen=True)
class Payment:
    """State of a payment: a success outweighs every failure, before or after it."""

    paid: bool
    at: datetime
    event_id: str
    amount: int
    currency: str
    reason: str | None = None

    @property
    def order(self) -> tuple[bool, datetime, str]:
        return self.paid, self.at, self.event_id


class ReversalKind(StrEnum):
    REFUND = "refund"  # all refunds of a charge
    REFUND_FAILED = "refund_failed"  # one refund whose money came back
    DISPUTE = "dispute"


# How far a dispute has come, for reports of the same second.
_DISPUTE_STEPS: Final = {"inquiry": 1, "open": 2, "won": 3, "lost": 3}


@dataclass(frozen=True)
class ReversalReport:
    """A provider's report, at `at` (UTC), of a charge's refunds, a failed refund or a dispute.
    `total` is in minor units; `status` is a dispute's, `began` when a failed refund was created."""

    kind: ReversalKind
    at: datetime
    total: int
    status: str | None = None
    began: datetime | None = None

    def replaces(self, known: ReversalReport) -> bool:
        """Return whether this report applies instead of the known one. Of a failed refund the first
        report applies, which is the one about the failure."""
        if self.kind is ReversalKind.REFUND_FAILED:
            return self.at < known.at
        return self._order >= known._order

    @property
    def _order(self) -> tuple[datetime, int, int]:
        step = _DISPUTE_STEPS[self.status] if self.status is not None else 0
        return self.at, step, self.total


def returned(refunds: ReversalReport, failed: Iterable[ReversalReport]) -> int:
    """Return what the refunds of a charge returned (minor units). The provider's total lacks the
    refunds that failed before it was reported, and contains those that failed since."""
    since = sum(
        each.total
        for each in failed
        if each.at >= refunds.at and (each.began is None or each.began <= refunds.at)
    )
    return max(0, refunds.total - since)
