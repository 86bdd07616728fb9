"""Dependencies of the endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from common.http.resources import provided
from payouts.payout_service import PayoutService
from payouts.providers.registry import Accounts
from payouts.recipient_service import RecipientService


@dataclass(frozen=True)
class OperatorTenant:
    """The tenant that operates Paybus and may see data of all tenants."""

    name: str


Service = Annotated[PayoutService, provided(PayoutService)]
Recipients = Annotated[RecipientService, provided(RecipientService)]
AccountsInUse = Annotated[Accounts, provided(Accounts)]
OperatingTenant = Annotated[OperatorTenant, provided(OperatorTenant)]
