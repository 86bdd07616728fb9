"""The sources of exchange rates, the preferred one first."""

from __future__ import annotations

from typing import Final

import httpx
from pydantic import HttpUrl

from orders.clients.rates import Ecb, Json, RateSource

SOURCES: Final = (Ecb.name, Json.name)


def sources(ecb: HttpUrl | None, json: HttpUrl | None, http: httpx.AsyncClient) -> list[RateSource]:
    """Those that have an address."""
    found: list[RateSource] = []
    if ecb is not None:
        found.append(Ecb(ecb, http))
    if json is not None:
        found.append(Json(json, http))
    return found
