"""The base of what callers send."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """A request's body, or a part of it. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
