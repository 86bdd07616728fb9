"""Deliveries that are processed alone, not in a batch."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel

from common.messaging.dead_letter import FailureHistory
from common.messaging.delivery import Delivery


def _delivery(headers: dict[str, Any]) -> Delivery:
    channel = cast(AbstractChannel, None)
    return Delivery(channel, 1, b"", headers, FailureHistory.of(headers))


@pytest.mark.parametrize(
    ("headers", "alone"),
    [
        ({}, False),
        ({"x-delivery-count": 1}, False),
        ({"x-delivery-count": 2}, True),
        ({"x-delivery-count": "many"}, False),
        ({"x-paybus-refill": -1}, True),
    ],
)
def test_a_message_that_came_back_more_than_once_runs_alone(
    headers: dict[str, Any], alone: bool
) -> None:
    assert _delivery(headers).alone is alone
