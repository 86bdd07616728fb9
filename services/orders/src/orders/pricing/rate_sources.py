"""Sources of exchange rates, the preferred one first."""

from __future__ import annotations

from typing import Final

import httpx
from pydantic import HttpUrl

from orders.pricing.rate_feeds import Ecb, Json, RateSource

SOURCES: Final = (Ecb.name, Json.name)


def sources(
    ecb: HttpUrl | None, json: HttpUrl | None, http: httpx.AsyncClient, *, seconds: float
) -> list[RateSource]:
    """Return the sources that have a URL; `seconds` is the time limit of each."""
    found: list[RateSource] = []
    if ecb is not None:
        found.append(Ecb(ecb, http, seconds=seconds))
    if json is not None:
        found.append(Json(json, http, seconds=seconds))
    return found
