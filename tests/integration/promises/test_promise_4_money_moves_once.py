"""Promise 4: money moves once. Any interleaving of submissions, crashes, timeouts, status checks,
webhooks, retries, holds and cancellations pays a payout at most once, and at rest the ledger
matches the provider's transfers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.ext.asyncio import create_async_engine

from common.db import database
from conftest import MakePaybus
from payouts.domain import State, TransferStatus
from support.payout_model import Kind
from support.payout_world import World


@pytest.fixture(scope="module")
def world(make_paybus: MakePaybus) -> Iterator[type[World]]:
    """Provide a database and an event loop for its connections."""
    with make_paybus() as paybus, asyncio.Runner() as runner:
        url = paybus.layout.databases["payouts"]
        engine = create_async_engine(url)
        World.sessions, World.runner = database.sessions_of(engine), runner
        yield World
        runner.run(engine.dispose())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_promise_4_money_moves_once_whatever_happens(world: type[World], kind: Kind) -> None:
    world.kind = kind
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=10,
            stateful_step_count=15,
            # Shrinking takes minutes, and failing examples are short enough to read.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Each fails if one line of the code is removed; found by the state machine or by analysis.
_STORIES: dict[str, list[tuple[Any, ...]]] = {
    "a refusal that was none": [
        ("works", "refused_after"),
        ("person", "retry"),
        ("works", "ok", "ok"),
    ],
    "limits the rate of calls, and done nevertheless": [
        ("works", "deferred_after"),
        ("works", "ok", "ok"),
    ],
    "a request that lands after the look-up": [
        ("works", "later"),
        ("time", 0.002),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "a request that lands hours later": [
        ("works", "later"),
        ("time", 1),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "two look at once": [
        ("works", "error_before"),
        ("begins",),
        ("begins",),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
    ],
    "an answer from before": [
        ("works", "error_before"),
        ("time", 0.02),
        ("begins",),
        ("goes", 0, "ok"),
        ("works", "ok", "ok", "lost"),
        ("time", 0.02),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
    ],
    "a key outlives an answer that was none": [
        ("works", "later"),
        ("time", 0.02),
        ("works", "ok", "ok", "deferred"),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "a key outlives the rotation of keys": [
        ("works", "later"),
        ("sealed anew",),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "a key that is used up": [
        ("works", "lost"),
        ("settles", TransferStatus.FAILED),
        ("told",),
        ("hinted",),
        ("person", "retry"),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("is", State.SUBMITTED),
    ],
    "cancelled, and paid after all": [
        ("works", "refused_after"),
        ("person", "cancel"),
        ("settles", TransferStatus.PAID),
        ("hinted",),
        ("is", State.PAID),
    ],
    "paid after all, when its approval is void": [
        ("person", "approve"),
        ("works", "later"),
        ("person", "hold"),
        ("time", 1),
        ("works", "ok", "ok"),
        ("details",),
        ("lands",),
        ("settles", TransferStatus.PAID),
        ("hinted",),
        ("is", State.PAID),
    ],
    "failed, and paid after all": [
        ("works", "ok"),
        ("settles", TransferStatus.FAILED),
        ("hinted",),
        ("is", State.FAILED),
        ("settles", TransferStatus.PAID),
        ("hinted",),
        ("is", State.PAID),
    ],
    "paid, and sent back, told by nobody": [
        ("works", "ok"),
        ("settles", TransferStatus.PAID),
        ("told",),
        ("settles", TransferStatus.RETURNED),
        ("hinted",),
        ("is", State.RETURNED),
    ],
    "a process that was suspended": [
        ("begins",),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("goes", 0, "ok"),
    ],
    "a failure that is repeated for its key": [("works", "error_before", "ok", "ok")],
    "a key that is forgotten": [("works", "lost"), ("time", 25), ("works", "ok", "ok")],
    "paid and sent back, told in the other order": [
        ("works", "ok"),
        ("settles", TransferStatus.PAID),
        ("settles", TransferStatus.RETURNED),
        ("told",),
        ("told late",),
    ],
    "cancelled after a refusal that was none": [("works", "refused_after"), ("person", "cancel")],
}


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("story", _STORIES)
def test_promise_4_holds_in(world: type[World], story: str, kind: Kind) -> None:
    world.kind = kind
    told = world()
    # A large payout needs an approval; the others are created without one.
    told.begin_world([("person", "approve") in _STORIES[story]])
    for what, *how in _STORIES[story]:
        _tell(told, what, how)
        told.nobody_is_paid_twice()
    told.teardown()


def _tell(world: World, what: str, how: list[Any]) -> None:  # noqa: PLR0912
    transfers = world.provider.made
    match what:
        case "works":
            world.a_worker_works(0, how)
        case "begins":
            world.a_worker_begins(0)
        case "goes":
            if world.in_hand:
                world.a_worker_goes_on(*how)
        case "person":
            world.a_person_acts(0, how[0])
        case "time":
            world.time_passes(how[0])
        case "details":
            world.details_change(0)
        case "hinted":
            world.is_hinted_at(world.ids[0])
        case "sealed anew":
            world.seal_anew()
        case "is":
            assert world.state_of(world.ids[0])["state"] == how[0]
        case "lands":
            for request in list(world.provider.under_way):
                world.provider.land(request)
        case "settles":
            for id_ in transfers:
                world.provider.settle(id_, how[0])
        case _:
            for id_ in transfers:
                world.tell(id_, old=what == "told late")
