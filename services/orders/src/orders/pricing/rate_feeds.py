"""Feeds of exchange rates, each read as units of a currency per euro."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any, ClassVar
from xml.etree.ElementTree import Element, ParseError

import httpx
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import HttpUrl

from common.clients.json_api import request
from common.errors import Upstream
from orders.pricing.conversion import BASE, DayRates

_CURRENCY = re.compile(r"[A-Z]{3}")
_LARGEST = 1_000_000


class RateSource(ABC):
    """A feed of exchange rates. `fetch` raises `Upstream` without a usable response."""

    name: ClassVar[str]

    def __init__(self, url: HttpUrl, http: httpx.AsyncClient, *, seconds: float) -> None:
        """Set up the feed. `seconds` limits the complete response, however slowly it arrives."""
        self._url = str(url)
        self._http = http
        self._seconds = seconds

    async def fetch(self) -> list[DayRates]:
        try:
            async with asyncio.timeout(self._seconds):
                answered = await request(self._http, "GET", self._url, largest=_LARGEST)
        except TimeoutError:
            raise Upstream(
                f"{self._url} did not respond completely within {self._seconds:g} s"
            ) from None
        if answered is None:
            raise Upstream(f"{self._url} answers 404")
        try:
            found = self.read(answered)
        except (ValueError, KeyError, TypeError, InvalidOperation, ParseError) as error:
            raise Upstream(f"{self._url}: not as expected: {type(error).__name__}") from error
        except DefusedXmlException as error:
            raise Upstream(f"{self._url}: XML with entities or a document type") from error
        if not found or not all(each.rates for each in found):
            raise Upstream(f"{self._url} has no rates")
        return found

    @abstractmethod
    def read(self, answered: httpx.Response) -> list[DayRates]: ...


class Ecb(RateSource):
    """Reference rates of the European Central Bank: of one day, or its history of 90 days.

    https://www.ecb.europa.eu/stats/policy_and_exchange_rates/euro_reference_exchange_rates
    """

    name = "ecb"

    def read(self, answered: httpx.Response) -> list[DayRates]:
        document = fromstring(answered.content, forbid_dtd=True)
        return [self._day(cube) for cube in document.iter() if "time" in cube.attrib]

    def _day(self, cube: Element) -> DayRates:
        rates = {each.attrib["currency"]: each.attrib["rate"] for each in cube}
        return DayRates(date.fromisoformat(cube.attrib["time"]), self.name, _read(rates))


class Json(RateSource):
    """Rates in a form that many services use. If the base is not the euro, the rates must include
    it.

    `{"base": "USD", "date": "2026-11-20", "rates": {"EUR": 0.92, "XAF": 604.5}}`
    """

    name = "json"

    def read(self, answered: httpx.Response) -> list[DayRates]:
        # Floats would change the last digits.
        said: Any = _decimal_json(answered)
        rates = _read(said["rates"])
        base = str(said["base"])
        if base != BASE:
            euro = rates[BASE]
            with localcontext(prec=28):
                rates = {name: rate / euro for name, rate in rates.items()} | {base: 1 / euro}
        shown = {name: rate for name, rate in rates.items() if name != BASE}
        return [DayRates(date.fromisoformat(said["date"]), self.name, shown)]


def _decimal_json(answered: httpx.Response) -> Any:
    return answered.json(parse_float=Decimal, parse_int=Decimal)


def _read(rates: Mapping[str, Any]) -> dict[str, Decimal]:
    found = {}
    for currency, value in rates.items():
        rate = Decimal(value)
        if not _CURRENCY.fullmatch(currency) or not rate.is_finite() or rate <= 0:
            raise ValueError(currency)
        found[currency] = rate
    return found
