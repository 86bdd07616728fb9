"""Stripe's events: https://docs.stripe.com/api/events/object"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4


def stripe_event(
    type_: str,
    snapshot: Mapping[str, Any],
    *,
    created: int,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a new event about an object, `created` at that time (seconds)."""
    data = {"object": snapshot}
    if previous is not None:
        data["previous_attributes"] = previous
    return {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": type_,
        "created": created,
        "livemode": False,
        "data": data,
    }
