"""`paybus endpoints`: the events that are selected at Stripe are those that Paybus translates."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import MakePaybus
from devstack import endpoints
from support.billing import stripe
from support.paybus import Paybus
from webhook_gateway.providers.stripe import TRANSLATED_TYPES

_CHECK = ("check", "stripe", "--name", "default")
_URL = "https://pay.example.com/webhooks/stripe"


@pytest.fixture
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["sandbox-stripe"]) as paybus:
        yield paybus


def _run(
    paybus: Paybus, *arguments: str, file: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command that operators run, where all packages are installed."""
    command = Path(sys.executable).with_name("paybus")
    found = os.environ | {"ENDPOINTS_FILE": str(file or paybus.layout.endpoints)}
    return subprocess.run(
        [command, "endpoints", *arguments], env=found, capture_output=True, text=True, check=False
    )


def _selected(paybus: Paybus, **changes: Any) -> str:
    wanted = {"url": _URL} | changes
    return str(stripe(paybus, "POST", "webhook_endpoints", **wanted)["id"])


def _form(events: list[str]) -> dict[str, str]:
    return {f"enabled_events[{number}]": each for number, each in enumerate(events)}


def test_what_is_not_selected_is_named_and_can_be_set_up(paybus: Paybus) -> None:
    missing = "invoice_payment.paid"
    id_ = _selected(paybus, **_form([*sorted(TRANSLATED_TYPES - {missing}), "account.updated"]))
    done = _run(paybus, *_CHECK)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{_URL} ({id_}, enabled" in done.stdout
    assert f"not selected: {missing}\n" in done.stdout
    assert "only recorded: account.updated\n" in done.stdout
    done = _run(paybus, "set-up", "stripe", "--url", _URL)
    assert (done.returncode, f"selected at {id_}: {missing}" in done.stdout) == (0, True)
    (there,) = stripe(paybus, "GET", "webhook_endpoints")["data"]
    assert {*there["enabled_events"]} == {*TRANSLATED_TYPES, "account.updated"}
    assert _run(paybus, *_CHECK).returncode == 0


def test_an_endpoint_that_is_not_there_is_created(paybus: Paybus) -> None:
    done = _run(paybus, *_CHECK)
    assert done.returncode == 1
    assert "Stripe has no webhook endpoint with a path of /webhooks/stripe" in done.stdout
    done = _run(paybus, "set-up", "stripe", "--url", _URL)
    assert done.returncode == 0, done.stderr
    assert "whsec_" in done.stdout, "Stripe shows it once"
    assert _run(paybus, *_CHECK).returncode == 0
    wrong = _run(paybus, "set-up", "stripe", "--url", "https://pay.example.com/elsewhere")
    assert wrong.returncode == 2
    assert "the gateway does not serve" in wrong.stderr


def test_one_that_takes_every_event_has_them_and_a_disabled_one_gets_none(paybus: Paybus) -> None:
    id_ = _selected(paybus, **_form(["*"]))
    assert _run(paybus, *_CHECK).returncode == 0
    stripe(paybus, "POST", f"webhook_endpoints/{id_}", status="disabled")
    done = _run(paybus, *_CHECK)
    assert (done.returncode, "it is disabled" in done.stdout) == (1, True)


def test_without_a_key_or_an_endpoint_it_says_so(paybus: Paybus, tmp_path: Path) -> None:
    file = tmp_path / "endpoints.toml"
    endpoints.write(file, [{"provider": "stripe", "tenant": "t", "secrets": ["whsec_x"]}])
    done = _run(paybus, "check", "stripe", file=file)
    assert (done.returncode, "no api_key" in done.stdout) == (1, True)
    done = _run(paybus, "check", "stripe", "--name", "paris", file=file)
    assert (done.returncode, "has no endpoint stripe/paris" in done.stderr) == (1, True)
    assert _run(paybus, "check", "square", file=file).returncode == 2
