"""The log of operators' actions: the actor, the action, its time and its reason."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from common.http.auth import Caller
from operations.models import OperatorAction


def note(
    session: AsyncSession, caller: Caller, action: str, subject: str, reason: str | None
) -> None:
    """Record an action, in the transaction of the change that it describes."""
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
