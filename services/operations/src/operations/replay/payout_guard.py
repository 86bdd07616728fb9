"""Decides whether an old payout command may be sent again.

Providers remember an idempotency key for about a day. An older command is refused, unless the
payouts service reports that the payout was never started or is complete: then the payout's state,
not the key, prevents a second transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import DecodeError
from common.contracts.registry import decode
from common.security.encryption import SecretBox
from operations.replay.planner import PAYOUT_COMMANDS
from operations.repository import dead_letters

_MOST = 200
_HARMLESS = frozenset({"scheduled", "approved", "paid", "failed", "returned", "cancelled"})
_TIMEOUT_SECONDS = 5


class PayoutReplayGuard:
    """Refuses every old command if there is no `url`."""

    def __init__(self, url: str | None, window: timedelta, vault: SecretBox) -> None:
        self._url = url
        self._vault = vault
        self.window = window

    async def refused(
        self, session: AsyncSession, conditions: Sequence[Any], token: str
    ) -> Mapping[str, str]:
        """Return the reasons, by dead-letter id, for those that match the conditions and must not
        be sent. `token` is the authorization for the payouts API: `Bearer ...`. Ends the session's
        transaction."""
        found = await dead_letters.old_commands(session, conditions, PAYOUT_COMMANDS, self.window)
        await session.rollback()
        if not found:
            return {}
        hours = f"{self.window.total_seconds() / 3600:g} h"
        past = f"a payout command of more than {hours} ago: its idempotency key may be forgotten"
        if self._url is None:
            return dict.fromkeys(found, f"{past}; set PAYOUTS_URL to have payouts queried")
        if len(found) > _MOST:
            return dict.fromkeys(found, f"{past}; replay at most {_MOST} of them at once")
        headers = {"Authorization": token}
        refused = {}
        async with httpx.AsyncClient(
            base_url=self._url, headers=headers, timeout=_TIMEOUT_SECONDS
        ) as http:
            for id_, sealed in found.items():
                state = await _state(http, self._vault.open_bytes(sealed))
                if state not in _HARMLESS:
                    refused[id_] = f"{past}; payouts says {state}"
        return refused


async def _state(http: httpx.AsyncClient, body: bytes) -> str:
    try:
        payout = decode(body).data.payout_id
        answer = await http.get(f"/v1/payouts/{payout}")
        if not answer.is_success:
            return f"nothing: it answers {answer.status_code}"
        return str(answer.json()["state"])
    except (DecodeError, AttributeError, httpx.HTTPError, ValueError, LookupError) as error:
        return f"nothing: {type(error).__name__}"
