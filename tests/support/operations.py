"""Calls of the operations API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.paybus import Paybus
from support.waiting import until

PROCESSES = ["operations-worker", "operations-api"]
QUICK = {"REPLAY_LEASE_SECONDS": "2"}


def get(paybus: Paybus, path: str, **params: Any) -> Any:
    answer = paybus.api("GET", "operations", f"/v1/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(
    paybus: Paybus, path: str, body: Mapping[str, Any], *, role: str = "operator"
) -> dict[str, Any]:
    answer = paybus.api("POST", "operations", f"/v1/{path}", json=body, role=role)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def groups(paybus: Paybus, **request: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(paybus, "dead-letters/groups", **request)
    return found


def letters(paybus: Paybus, **request: Any) -> list[dict[str, Any]]:
    """Fetch all pages."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(paybus, "dead-letters", limit=200, **request, **cursor)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def replay(paybus: Paybus, **request: Any) -> str:
    """Create a replay of all open dead letters, unless some are selected; return its id."""
    which: dict[str, Any] = {} if {"ids", "filter"} & request.keys() else {"filter": {}}
    ordered = post(paybus, "replays", {"reason": "the cause is mended"} | which | request)
    id_: str = ordered["id"]
    return id_


def until_done(paybus: Paybus, replay_id: str, *, seconds: float = 60) -> dict[str, int]:
    """Wait until the replay is done; return the counts by outcome."""

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = get(paybus, f"replays/{replay_id}")
        return found if found["state"] == "done" else None

    found = until(over, what="the replay is done", seconds=seconds, pause=0.2)
    assert found is not None
    counts: dict[str, int] = found["counts"]
    return counts


def until_open(paybus: Paybus, count: int, **request: Any) -> None:
    until(
        lambda: sum(each["count"] for each in groups(paybus, **request)) == count,
        what=f"{count} dead letters are there",
        pause=0.2,
    )
