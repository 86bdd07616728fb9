"""An operator replays failures in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from conftest import MakePaybus
from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from devstack.servers.browser import chromium
from support.operations import PROCESSES, QUICK, until_open
from support.organizations import break_provisioning, organization_of, until_status
from support.paybus import Paybus

_OTHERS = [
    "webhook-gateway",
    "subscription-worker",
    "subscription-api",
    "provisioning-worker",
    "provisioning-api",
    "sandbox-backend",
]
_FAILURES = 50
_SCREENSHOTS = PAYBUS / "screenshots"
_ROOT = ["--no-sandbox"] if os.geteuid() == 0 else []


@pytest.fixture
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    # Fifty failures of five attempts each are needed, so the circuit must stay closed.
    calling = {"BACKEND_CIRCUIT_FAILURES": "10000"}
    with make_paybus([*PROCESSES, *_OTHERS], **QUICK, **calling) as paybus:
        yield paybus


@pytest.fixture
def page(paybus: Paybus) -> Iterator[Page]:
    try:
        found = chromium()
    except DevstackError as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ROOT)
        url = paybus.layout.url("operations-api")
        context = browser.new_context(base_url=url, viewport={"width": 1200, "height": 800})
        yield context.new_page()
        browser.close()


def shoot(page: Page, name: str) -> None:
    _SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=_SCREENSHOTS / f"{name}.png")


def sign_in(page: Page, paybus: Paybus) -> None:
    page.goto("/console")
    expect(page).to_have_title("Sign in · Paybus")
    shoot(page, "sign-in")
    page.get_by_label("Access token").fill(paybus.token("operator"))
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_title("Overview · Paybus")


@pytest.mark.timeout(300)
def test_fifty_failures_are_seen_mended_and_replayed(page: Page, paybus: Paybus) -> None:
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    numbers = break_provisioning(paybus, _FAILURES)
    until_open(paybus, _FAILURES)
    sign_in(page, paybus)
    shoot(page, "overview")

    page.get_by_role("link", name="Dead letters").click()
    group = page.get_by_role("region", name=f"{_FAILURES} \u00d7 organization.reconcile")
    expect(group).to_contain_text("provisioning.organizations")
    expect(group).to_contain_text("BackendFailed")
    shoot(page, "groups")
    group.get_by_role("link").click()
    expect(page.get_by_role("checkbox")).to_have_count(_FAILURES)
    shoot(page, "letters")
    page.get_by_role("row").nth(1).get_by_role("link").click()
    page.get_by_text("Stack trace", exact=True).click()
    expect(page.get_by_text("provisioner.py").first).to_be_visible()
    shoot(page, "letter")

    paybus.backend(mode="well")
    page.get_by_role("link", name="Dead letters").click()
    group.get_by_label("Reason").fill("the back end is up again")
    group.get_by_label("Messages per second").fill("10")
    group.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("progressbar", name="completed")).to_be_visible()
    some = re.compile(rf"\b([5-9]|[1-4]\d) of {_FAILURES}")
    expect(page.get_by_role("status")).to_contain_text(some, timeout=30_000)
    shoot(page, "replay-running")
    expect(page.get_by_role("status")).to_contain_text(
        f"{_FAILURES} of {_FAILURES}", timeout=120_000
    )
    expect(page.get_by_role("status")).to_contain_text("done", timeout=30_000)
    expect(page.get_by_role("cell", name="succeeded")).to_be_visible()
    shoot(page, "replay-done")

    page.get_by_role("link", name="Dead letters").click()
    expect(page.get_by_text("No open dead letters.")).to_be_visible()
    for number in numbers:
        integration = until_status(paybus, number, "provisioned")
        assert len(organization_of(paybus, integration)) == 1

    for name in ("Replays", "Journal", "Schedules", "Actions"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page).to_have_title(f"{name} · Paybus")
        shoot(page, name.lower())
    page.get_by_role("link", name="Journal", exact=True).click()
    page.get_by_role("link", name="trace").first.click()
    expect(page.get_by_role("listitem").first).to_contain_text("+0.000 s")
    shoot(page, "trace")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to main content")).to_be_focused()
    page.emulate_media(color_scheme="dark")
    shoot(page, "trace-dark")
    assert wrong == [], "the browser has nothing to complain about"
