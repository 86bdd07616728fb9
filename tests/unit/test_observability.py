"""Alerts have runbooks, and everything that is made from code is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from deploy.observability import alerts, build

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("alert", alerts.every_alert(), ids=lambda each: each.name)
def test_an_alert_has_a_runbook_that_names_it(alert: alerts.Alert) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{alert.runbook}.md").read_text()
    assert page.startswith("# ")
    own = {"webhooks", "provisioning-failing", "database", "queue-growing", "processes",
           "schedule-missed", "keys-and-certificates"}  # fmt: skip
    if alert.runbook in own and "Budget" not in alert.name:
        assert alert.name in page


def test_no_alert_has_the_name_of_another() -> None:
    names = [each.name for each in alerts.every_alert()]
    assert len(names) == len({*names})


def test_what_is_made_from_code_is_current() -> None:
    old = [path.name for path, text in build.files().items() if path.read_text() != text]
    assert old == [], "run `make observability`"
