"""HTTP API for exchange rates and for reports of sellers' earnings."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.money import Currency
from common.errors import Invalid
from common.http.auth import Viewer
from common.http.resources import Session
from orders import order_service, repository
from orders.api.responses import Converted, RatesView, SellerReport
from orders.models import Share
from orders.pricing.conversion import BASE, Conversion, DayRates, convert
from orders.pricing.rate_sources import SOURCES
from orders.schemas import Amount

_MOST_SELLERS = 10_000

rates = APIRouter(prefix="/v1/rates", tags=["rates"])
reports = APIRouter(prefix="/v1/reports", tags=["reports"])

ROUTERS = (rates, reports)

Day = Annotated[date | None, Query(description="UTC; today if omitted")]


@rates.get("")
async def list_rates(caller: Viewer, session: Session, day: Day = None) -> list[RatesView]:
    """Return each source's rates of its newest day that is not after `day`."""
    known = await _known(session, caller.tenant, day or _today())
    newest: dict[str, DayRates] = {}
    for each in known:
        newest.setdefault(each.source, each)
    return [
        RatesView(base=BASE, day=each.day, source=each.source, rates=dict(each.rates))
        for each in newest.values()
    ]


@rates.get("/convert")
async def convert_amount(
    caller: Viewer,
    session: Session,
    amount: Annotated[Amount, Query(strict=False)],
    origin: Annotated[Currency, Query(alias="from")],
    target: Annotated[Currency, Query(alias="to")],
    day: Day = None,
) -> Converted:
    """Convert an amount in minor units, rounded once, half to even. Returns 409 if no rate is
    recent enough."""
    on = day or _today()
    known = await _known(session, caller.tenant, on)
    most_days = (await order_service.terms_of(session, caller.tenant)).oldest_rate_days
    found = convert(amount, origin, target, known, on=on, most_days=most_days)
    return _shown(found, target)


@reports.get("/sellers")
async def sellers(
    caller: Viewer,
    session: Session,
    since: AwareDatetime,
    until: AwareDatetime,
    in_own_currency: bool = False,
) -> list[SellerReport]:
    """Report what each seller earned from orders paid from `since` up to, but not including,
    `until`, in the tenant's currency at today's rates or, with `in_own_currency`, in the orders'
    own currencies."""
    found: dict[tuple[str, str], SellerReport] = {}
    async for currency, share in repository.shares_paid(session, caller.tenant, since, until):
        _add(found, currency, share)
        if len(found) > _MOST_SELLERS:
            raise Invalid(f"more than {_MOST_SELLERS} sellers: request a shorter period")
    if in_own_currency:
        return list(found.values())
    return await _in_one_currency(session, caller.tenant, list(found.values()))


def _add(found: dict[tuple[str, str], SellerReport], currency: str, share: Share) -> None:
    report = found.get((share.seller, currency))
    if report is None:
        report = SellerReport(
            seller=share.seller, currency=currency, orders=0, gross=0, refunded=0, fees=0, owed=0,
            requested=0,
        )  # fmt: skip
        found[share.seller, currency] = report
    part = order_service.part(share)
    report.orders += 1
    report.gross += share.gross
    report.refunded += share.refunded
    report.fees += part.fee
    report.owed += part.owed
    report.requested += share.requested


async def _in_one_currency(
    session: AsyncSession, tenant: str, reports: list[SellerReport]
) -> list[SellerReport]:
    terms = await order_service.terms_of(session, tenant)
    known = await _known(session, tenant, _today())

    def converted(amount: int, currency: str) -> int:
        return convert(
            amount, currency, terms.currency, known, on=_today(), most_days=terms.oldest_rate_days
        ).amount

    whole: dict[str, SellerReport] = {}
    for each in reports:
        amounts = {
            name: converted(getattr(each, name), each.currency)
            for name in ("gross", "refunded", "fees", "owed", "requested")
        }
        known_one = whole.get(each.seller)
        if known_one is None:
            whole[each.seller] = each.model_copy(update={"currency": terms.currency, **amounts})
            continue
        known_one.orders += each.orders
        for name, amount in amounts.items():
            setattr(known_one, name, getattr(known_one, name) + amount)
    return list(whole.values())


async def _known(session: AsyncSession, tenant: str, on: date) -> list[DayRates]:
    terms = await order_service.terms_of(session, tenant)
    return await repository.rates(session, on=on, most_days=terms.oldest_rate_days, sources=SOURCES)


def _shown(found: Conversion, target: str) -> Converted:
    return Converted(
        amount=found.amount, currency=target, rate=found.rate, day=found.day, source=found.source
    )


def _today() -> date:
    return datetime.now(UTC).date()
