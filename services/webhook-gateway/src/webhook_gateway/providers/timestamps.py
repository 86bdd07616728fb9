"""Providers' time stamps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

_DAY_ONLY = len("2026-11-28")


def parse(text: str) -> datetime:
    """RFC 3339, in UTC; without a zone it is UTC already. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def said(text: Any) -> datetime | None:
    """As `parse`, and None where there is no time that can be read. Of what has only a day it is
    the day's last moment: it was not later."""
    try:
        moment = parse(text)
    except (TypeError, ValueError):
        return None
    return moment + timedelta(days=1, microseconds=-1) if len(text) <= _DAY_ONLY else moment


def from_seconds(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
