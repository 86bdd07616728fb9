"""Dependencies of the endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from common.http.resources import provided
from payouts.payout_service import PayoutService
from payouts.providers.registry import Accounts


@dataclass(frozen=True)
class OperatorTenant:
    """The tenant that operates Paybus and may see data of all tenants."""

    name: str


Service = Annotated[PayoutService, provided(PayoutService)]
AccountsInUse = Annotated[Accounts, provided(Accounts)]
OperatingTenant = Annotated[OperatorTenant, provided(OperatorTenant)]
