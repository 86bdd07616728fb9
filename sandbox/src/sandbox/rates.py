"""Exchange rates: the European Central Bank's file and a JSON source, with the same figures.

`PUT /_rates` sets them: `{"day": "2026-11-20", "rates": {"USD": "1.1"}, "fails": ["ecb"]}`; the
default of `day` is today.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

_ECB = """<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01" \
xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
\t<gesmes:subject>Reference rates</gesmes:subject>
\t<gesmes:Sender><gesmes:name>European Central Bank</gesmes:name></gesmes:Sender>
\t<Cube><Cube time='{day}'>{rates}</Cube></Cube>
</gesmes:Envelope>
"""
# The bank publishes no African currency but the rand; other sources do.
_NOT_OF_THE_BANK = frozenset({"NGN", "GHS", "KES"})
_FIRST = {
    "USD": "1.0842", "GBP": "0.8391", "JPY": "163.27", "CHF": "0.9312", "ZAR": "19.3041",
    "NGN": "1742.55", "GHS": "16.82", "KES": "140.11",
}  # fmt: skip


class Rates(BaseModel):
    day: date | None = None
    rates: dict[str, str] = Field(default_factory=lambda: dict(_FIRST))
    fails: list[str] = Field(default_factory=list)

    @property
    def shown_day(self) -> str:
        return (self.day or datetime.now(UTC).date()).isoformat()


def create_router() -> APIRouter:
    router = APIRouter(prefix="/_rates")
    now = Rates()

    @router.put("")
    async def change(wanted: Rates) -> Rates:
        nonlocal now
        now = wanted
        return now

    @router.get("/ecb.xml")
    async def ecb() -> Response:
        if "ecb" in now.fails:
            return Response("<html>maintenance</html>", media_type="text/html")
        cubes = "".join(
            f"<Cube currency='{currency}' rate='{rate}'/>"
            for currency, rate in now.rates.items()
            if currency not in _NOT_OF_THE_BANK
        )
        text = _ECB.format(day=now.shown_day, rates=cubes)
        return Response(text, media_type="text/xml")

    @router.get("/latest.json")
    async def latest() -> Any:
        if "json" in now.fails:
            return Response("busy", 503)
        # Numbers, not strings, as in such services.
        body = ", ".join(f'"{currency}": {rate}' for currency, rate in now.rates.items())
        text = f'{{"base": "EUR", "date": "{now.shown_day}", "rates": {{{body}}}}}'
        return Response(text, media_type="application/json")

    return router
