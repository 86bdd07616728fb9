"""Request bodies."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from provisioning.domain import Status


class IntegrationFilter(BaseModel):
    """A filter of integrations. `error` matches a part of the error's text."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = None
    customer_id: str | None = None
    error: str | None = Field(default=None, min_length=3)
