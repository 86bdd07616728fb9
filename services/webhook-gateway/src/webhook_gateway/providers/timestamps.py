"""Parsing of providers' timestamps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

_DAY_ONLY = len("2026-11-28")


def parse(text: str) -> datetime:
    """Parse RFC 3339 into UTC; a value without a zone is in UTC. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def said(text: Any) -> datetime | None:
    """Parse like `parse`, but return None without a readable time. A date without a time yields the
    day's last moment, the latest possible."""
    try:
        moment = parse(text)
    except (TypeError, ValueError):
        return None
    return moment + timedelta(days=1, microseconds=-1) if len(text) <= _DAY_ONLY else moment


def from_seconds(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
