"""The end of `make demo`: one row for each of the five systems that Paybus replaces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import ROUND_HALF_EVEN, Decimal

import httpx
from rich.console import Console

from devstack.demo.banks import Banks, Tally
from devstack.demo.base import everything
from devstack.demo.orders import ENVIRONMENT as TRADING
from devstack.demo.orders import Marketplace
from devstack.demo.payout_load import ENVIRONMENT as PAYING
from devstack.demo.payout_load import OPTIONS, Payday
from devstack.demo.report import Check, table_of_checks
from devstack.demo.stripe_life import StripeLife
from devstack.processes.system import System, introduce
from devstack.tokens import DevKeys

ENVIRONMENT = {**TRADING, **PAYING, "BANKS_INTERVAL_SECONDS": "1", "BANK_SYNC_LEASE_SECONDS": "5"}
PAYOUT_OPTIONS = OPTIONS
_ORDERS, _BANKS, _TRANSACTIONS, _PAYOUTS = 60, 5, 50, 50
_PATIENCE_SECONDS = 240
_SEED = 5
_XAF_FOR_A_EURO = Decimal("655.957")


async def play(system: System, keys: DevKeys, console: Console) -> bool:
    """Run after the subscriptions by Stripe and mobile money. Return whether all checks passed."""
    introduce(system.layout)  # no callbacks are dropped any more
    headers = {"Authorization": f"Bearer {keys.token('operator')}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as http:
        started = time.monotonic()
        checks = [
            *await _organizations(system, http),
            await _finance(system, keys, http, console),
            await _marketplace(system, keys, http, console),
            await _payouts(system, keys, console),
            await _stripe(system, keys, console),
        ]
        console.print(f"these four took {time.monotonic() - started:.0f} s")
    console.print(table_of_checks("the five systems that Paybus replaces", checks))
    return all(check.ok for check in checks)


async def _organizations(system: System, http: httpx.AsyncClient) -> list[Check]:
    """Count the provisioned customers by their payment provider."""
    subscriptions = await everything(
        http, f"{system.layout.url('subscription-api')}/v1/subscriptions", status="active"
    )
    integrations = await everything(
        http, f"{system.layout.url('provisioning-api')}/v1/integrations", status="provisioned"
    )
    provisioned = {each["customer_id"] for each in integrations}

    def of(provider: str) -> tuple[int, int]:
        customers = {e["customer_id"] for e in subscriptions if e["provider"] == provider}
        return len(customers), len(customers & provisioned)

    return [
        Check("directory: Stripe to organization", *of("stripe")),
        Check("shop: mobile money to organization", *of("paybus")),
    ]


async def _finance(
    system: System, keys: DevKeys, http: httpx.AsyncClient, console: Console
) -> Check:
    """Check commands at Stripe up to their webhooks, and banks up to equal records."""
    console.print(f"finance: a subscription is cancelled and resumed, {_BANKS} banks are linked")
    url = f"{system.layout.url('subscription-api')}/v1"
    page = await http.get(f"{url}/subscriptions", params={"status": "active", "limit": 200})
    one = next(e for e in page.raise_for_status().json()["items"] if e["provider"] == "stripe")
    commands = []
    for verb in ("cancel", "resume"):
        answer = await http.post(
            f"{url}/subscriptions/{one['id']}/{verb}",
            json={},
            headers={"Idempotency-Key": f"demo-{verb}"},
        )
        commands.append(answer.raise_for_status().json()["id"])

    async def confirmed() -> int:
        found = [(await http.get(f"{url}/commands/{id_}")).json() for id_ in commands]
        return sum(each["confirmed_at"] is not None for each in found)

    banks, tally = Banks(system, keys), Tally()
    await banks.live(_BANKS, _TRANSACTIONS)
    await banks.behave_well()

    async def settled() -> bool:
        nonlocal tally
        tally = await banks.compare()
        return tally.settled and await confirmed() == len(commands)

    await _until(settled)
    expected = len(commands) + tally.there["transactions"]
    found = await confirmed() + tally.equal["transactions"]
    return Check("finance: Stripe commands, Plaid transactions", expected, found)


async def _marketplace(
    system: System, keys: DevKeys, http: httpx.AsyncClient, console: Console
) -> Check:
    console.print(f"marketplace: {_ORDERS} orders, a third of which is not paid in time")
    market = Marketplace(system.layout, keys, _ORDERS, grace=20, holding=5)
    await market.prepare()
    rate = await _rate(system, http)
    await market.trade()
    await _until(market.settled)
    checks = [*await market.checks(), rate]
    if not all(check.ok for check in checks):
        console.print(table_of_checks("the marketplace", checks))
    await market.close()
    what = f"marketplace: sums of {_ORDERS} orders, a day's rate"
    return Check(what, len(checks), sum(check.ok for check in checks))


async def _rate(system: System, http: httpx.AsyncClient) -> Check:
    """Compare a thousand dollars at the day's rate with the source's own rate."""
    orders = f"{system.layout.url('orders-api')}/v1"
    (await http.post(f"{orders}/schedules/rates/run")).raise_for_status()
    asked = {"amount": "100000", "from": "USD", "to": "XAF"}

    async def known() -> bool:
        return (await http.get(f"{orders}/rates/convert", params=asked)).is_success

    await _until(known)
    converted = (await http.get(f"{orders}/rates/convert", params=asked)).raise_for_status().json()
    source = await http.get(f"{system.layout.url('sandbox-providers')}/_rates/latest.json")
    dollars = Decimal(str(source.raise_for_status().json()["rates"]["USD"]))
    expected = (1000 / dollars * _XAF_FOR_A_EURO).quantize(Decimal(1), ROUND_HALF_EVEN)
    return Check("1,000 USD in XAF, by the day's rate", int(expected), converted["amount"])


async def _payouts(system: System, keys: DevKeys, console: Console) -> Check:
    """Send payouts while providers lose responses, some of them after the work."""
    console.print(f"payouts: {_PAYOUTS}, at providers that lose answers")
    payday = Payday(system.layout, keys, _PAYOUTS, _SEED)
    before = await payday.states()
    await payday.prepare(sellers=9)
    await payday.order()

    async def count(*names: str) -> int:
        states = await payday.states()
        return sum(states.get(name, 0) - before.get(name, 0) for name in names)

    async def sent() -> bool:
        return await count("submitted", "unknown", "paid", "returned") == _PAYOUTS

    async def ended() -> bool:
        return await count("paid", "returned") == _PAYOUTS

    await _until(sent)
    await payday.behave_well()
    await _until(ended)
    found = await count("paid", "returned")
    return Check("payouts: paid once, or sent back", _PAYOUTS, found)


async def _stripe(system: System, keys: DevKeys, console: Console) -> Check:
    console.print("Stripe: single payments, a failed refund, a won dispute, a pause, two plans")
    life = StripeLife(system.layout, keys)
    await life.live()

    async def settled() -> bool:
        return all(check.ok for check in await life.checks())

    await _until(settled)
    checks = await life.checks()
    console.print(table_of_checks("Stripe itself", checks))
    await life.close()
    what = "Stripe itself: in the API, the journal, the console"
    return Check(what, len(checks), sum(check.ok for check in checks))


async def _until(settled: Callable[[], Awaitable[bool]]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not await settled() and time.monotonic() < until:  # noqa: ASYNC110 - other processes act
        await asyncio.sleep(0.5)
