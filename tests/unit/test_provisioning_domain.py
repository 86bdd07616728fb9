"""The desired state of an organization, and the next step towards it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.domain import (
    Operation,
    Organization,
    Status,
    SubscriptionState,
    desired_state,
    next_operation,
    status,
    too_many_failed,
)

organizations = st.sampled_from(Organization)


@given(st.lists(st.booleans()))
def test_one_active_subscription_is_enough(active: list[bool]) -> None:
    result = desired_state(SubscriptionState(each) for each in active)
    if any(active):
        assert result is Organization.ACTIVE
    else:
        assert result is (Organization.SUSPENDED if active else Organization.ABSENT)


@given(organizations, organizations)
def test_one_operation_is_always_enough(want: Organization, actual: Organization) -> None:
    operation = next_operation(want, actual)
    after = operation.result if operation else actual
    assert next_operation(want, after) is None


@given(organizations, organizations)
def test_while_an_outcome_is_unknown_the_call_is_repeated(
    want: Organization, actual: Organization
) -> None:
    operation = next_operation(want, actual, unknown=True)
    if want is Organization.ABSENT:
        assert operation is None
    else:
        assert operation is not None
        assert operation.result is want


def test_what_ended_before_it_was_created_is_never_created() -> None:
    assert next_operation(Organization.SUSPENDED, Organization.ABSENT) is None


@pytest.mark.parametrize(
    ("want", "actual", "contact_known", "enabled", "expected"),
    [
        ("active", "absent", True, True, Status.PENDING),
        ("active", "absent", False, True, Status.WAITING),
        ("active", "absent", True, False, Status.PARKED),
        ("active", "active", True, True, Status.PROVISIONED),
        ("active", "active", True, False, Status.PROVISIONED),
        ("suspended", "active", True, True, Status.PENDING),
        ("suspended", "suspended", True, True, Status.SUSPENDED),
        ("suspended", "absent", True, True, Status.NOT_NEEDED),
        ("active", "suspended", False, True, Status.PENDING),
    ],
)
def test_status(
    want: str, actual: str, contact_known: bool, enabled: bool, expected: Status
) -> None:
    found = status(
        Organization(want), Organization(actual), contact_known=contact_known, enabled=enabled
    )
    assert found is expected


def test_operations_lead_where_they_say() -> None:
    assert Operation.CREATE.result is Operation.RESUME.result is Organization.ACTIVE
    assert Operation.SUSPEND.result is Organization.SUSPENDED


@pytest.mark.parametrize(
    ("failed", "finished", "unhealthy"),
    [(0, 0, False), (1, 10, False), (2, 10, True), (1, 1, True)],
)
def test_more_than_a_tenth_is_too_many(failed: int, finished: int, unhealthy: bool) -> None:
    assert too_many_failed(failed, finished) is unhealthy
