"""Providers' time stamps."""

from __future__ import annotations

from datetime import UTC, datetime


def parse(text: str) -> datetime:
    """RFC 3339, in UTC; without a zone it is UTC already. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def from_seconds(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
