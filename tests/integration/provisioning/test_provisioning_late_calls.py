"""A call of a process that was suspended reaches the backend API after another process's call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from common.contracts.event import Event
from common.contracts.provisioning import ReconcileOrganization
from common.db import database
from common.db.database import Sessions
from common.errors import Busy, ProviderTimeout
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard, CircuitOpen
from conftest import MakePaybus
from devstack.processes.system import BACKEND_TOKEN
from provisioning.clients.backend import Backend
from provisioning.models import Integration
from provisioning.provisioner import Provisioner
from support.paybus import Paybus

_CAUSE = Event[ReconcileOrganization](
    id="cause",
    source="/test",
    type="organization.reconcile",
    subject="integration",
    time=datetime.now(UTC),
    recordedtime=datetime.now(UTC),
    tenant="default",
    trust="none",
    correlationid="cause",
    data=ReconcileOrganization(integration_id="integration"),
)


@pytest.mark.parametrize("takes_over", ["has resumed it", "waits for its answer"])
async def test_what_a_late_call_undoes_is_done_again(
    make_paybus: MakePaybus, takes_over: str
) -> None:
    with make_paybus(["sandbox-backend"]) as paybus:
        async with _world(paybus) as (sessions, http):
            late, other = _Held(), _Held("response")
            slow = await _suspending(paybus, sessions, http, late)
            await _change(sessions, desired_state="active", lease_until=datetime.now(UTC))
            taking_over = asyncio.create_task(_reconcile(paybus, sessions, other))
            await other.reached.wait()
            if takes_over == "has resumed it":
                other.go_on.set()
                await taking_over
                late.go_on.set()
                await slow
            else:
                late.go_on.set()
                with pytest.raises(Busy):  # the other process still works on it
                    await slow
                other.go_on.set()
                await taking_over
            async with sessions() as session:
                row = await session.get_one(Integration, "integration")
                assert (row.status, row.outcome_unknown) == ("provisioned", False)
            assert paybus.books()["organizations"][0]["status"] == "active"


async def test_a_late_call_is_noticed_by_a_process_that_meets_an_open_circuit(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus(["sandbox-backend"]) as paybus:
        async with _world(paybus) as (sessions, http):
            late = _Held()
            slow = await _suspending(paybus, sessions, http, late)
            await _change(sessions, desired_state="active", lease_until=datetime.now(UTC))
            await _reconcile(paybus, sessions)
            await _change(sessions, desired_state="suspended")
            gate = _HeldGuard(
                "the backend API", label="b", max_concurrency=9, quota=None, failures=1
            )
            refused = asyncio.create_task(_reconcile(paybus, sessions, gate=gate))
            await gate.reached.wait()  # its intent is saved, and nothing is sent yet
            late.go_on.set()
            with pytest.raises(Busy):
                await slow
            with pytest.raises(ProviderTimeout):
                async with CallGuard.call(gate):
                    raise ProviderTimeout("which opens the circuit")
            gate.go_on.set()
            with pytest.raises(CircuitOpen):
                await refused
            await _change(sessions, desired_state="active")
            await _reconcile(paybus, sessions)
            assert paybus.books()["organizations"][0]["status"] == "active"


class _Held:
    """Holds the first change of a status: either the request before it is sent, or the response."""

    def __init__(self, at: str = "request") -> None:
        self.hooks = {at: [self._hold]}
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def _hold(self, held: httpx.Request | httpx.Response) -> None:
        request = held.request if isinstance(held, httpx.Response) else held
        if request.method == "PUT" and not self.reached.is_set():
            self.reached.set()
            await self.go_on.wait()


class _HeldGuard(CallGuard):
    """Holds the first call before it looks at the circuit."""

    def __init__(self, system: str, **settings: Any) -> None:
        super().__init__(system, **settings)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        self.reached.set()
        await self.go_on.wait()
        async with super().call():
            yield


@asynccontextmanager
async def _world(paybus: Paybus) -> AsyncIterator[tuple[Sessions, httpx.AsyncClient]]:
    url = paybus.layout.databases["provisioning"]
    engine = create_async_engine(url)
    async with httpx.AsyncClient(**_backend(paybus)) as http:
        yield database.sessions_of(engine), http
    await engine.dispose()


def _backend(paybus: Paybus) -> dict[str, Any]:
    return {
        "base_url": paybus.layout.url("sandbox-backend"),
        "headers": {"Authorization": f"Bearer {BACKEND_TOKEN}"},
        "timeout": 60,
    }


def _suspended_soon(organization: str) -> Integration:
    return Integration(
        id="integration",
        tenant="default",
        customer_id="cus_1",
        email="ama@example.com",
        desired_state="suspended",
        observed_state="active",
        status="pending",
        organization_id=organization,
        admin_created=True,
    )


async def _suspending(
    paybus: Paybus, sessions: Sessions, http: httpx.AsyncClient, late: _Held
) -> asyncio.Task[None]:
    """Start a process that saves its intent to suspend, and is then itself suspended."""
    body = {"reference": "integration", "name": "Acme"}
    made = await http.post("/organizations", json=body, headers={"Idempotency-Key": "k"})
    async with sessions.begin() as session:
        session.add(_suspended_soon(made.json()["id"]))
    slow = asyncio.create_task(_reconcile(paybus, sessions, late))
    await late.reached.wait()
    return slow


async def _change(sessions: Sessions, **values: Any) -> None:
    async with sessions.begin() as session:
        row = await session.get_one(Integration, "integration")
        for name, value in values.items():
            setattr(row, name, value)


async def _reconcile(
    paybus: Paybus, sessions: Sessions, held: _Held | None = None, gate: CallGuard | None = None
) -> None:
    hooks = held.hooks if held else {}
    async with httpx.AsyncClient(**_backend(paybus), event_hooks=hooks) as http:
        gate = gate or CallGuard("the backend API", label="backend", max_concurrency=9, quota=None)
        provisioner = Provisioner(
            sessions, Backend(http), gate, enabled=True, look_first=False, timeout=60,
            redact=Redactor(),
        )  # fmt: skip
        await provisioner.reconcile("integration", _CAUSE)
