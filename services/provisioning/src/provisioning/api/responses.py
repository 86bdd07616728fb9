"""Response bodies."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from common.http.resources import View
from provisioning.domain import Status


class IntegrationView(View):
    customer_id: str
    email: str | None
    name: str | None
    status: Status
    desired_state: str
    observed_state: str
    organization_id: str | None
    error: str | None = Field(description="the complete last failure, until the next success")
    updated_at: datetime


class AttemptView(BaseModel):
    """`outcome` is null while the operation runs, and permanently if the process died during it."""

    model_config = ConfigDict(from_attributes=True)

    operation: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: str | None


class IntegrationDetail(IntegrationView):
    attempts: list[AttemptView] = Field(default_factory=list, description="the newest 50 attempts")


class Requested(BaseModel):
    requested: int = Field(description="the number of integrations that are retried")
    more: bool = Field(description="whether more match; call again to continue")
