"""Who did what, when and why."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from common.http.auth import Caller
from operations.models import OperatorAction


def note(
    session: AsyncSession, caller: Caller, action: str, subject: str, reason: str | None
) -> None:
    """In the transaction of what it is about."""
    session.add(
        OperatorAction(
            id=uuid4().hex,
            actor=caller.subject,
            tenant=caller.tenant,
            action=action,
            subject=subject,
            reason=reason,
        )
    )
