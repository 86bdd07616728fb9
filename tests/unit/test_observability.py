"""Alerts have runbooks, queries and commands in docs exist, and generated files are current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from deploy.observability import build, check, objectives
from deploy.observability.alerts import Alert

from operations import cli as operations_cli
from payouts.cli import main as payouts_cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("alert", objectives.every_alert(), ids=lambda each: each.name)
def test_an_alert_has_a_runbook_that_names_it(alert: Alert) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{alert.runbook}.md").read_text()
    assert page.startswith("# ")
    own = {"webhooks", "provisioning-failing", "database", "queue-growing", "processes",
           "schedule-missed", "keys-and-certificates"}  # fmt: skip
    if alert.runbook in own and "Budget" not in alert.name:
        assert alert.name in page


def test_queries_ask_for_metrics_and_labels_that_there_are() -> None:
    """A wrong name is valid syntax, and `or vector(0)` hides it."""
    known = dict(build.series())
    common = {"service", "role", "le", "instance", "alertname"}
    for name, query in check.queries().items():
        for series, _, chosen in re.findall(r"\b(paybus_\w+)(\{([^}]*)\})?", query):
            assert series in known, f"{name}: there is no {series}"
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen))
            assert labels <= known[series] | common, f"{name}: {series} has no {labels}"
        grouped = re.findall(r"by \(([^)]*)\)", query)
        every = common.union(*known.values())
        assert {each.strip() for part in grouped for each in part.split(",")} <= every, name


def test_the_commands_of_docs_are_there() -> None:
    """Check the commands of `paybus` and `paybus-payouts` in runbooks and docs."""
    programs = {
        "paybus": operations_cli.program(),
        "paybus-payouts": payouts_cli.app,
    }
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for page in pages:
        if page.parent.name == "adr":
            continue
        for name, words in re.findall(
            r"(?:^|`)(paybus(?:-payouts)?)((?: [a-z][a-z-]*)+)", page.read_text(), re.M
        ):
            command: Any = typer.main.get_command(programs[name])
            for word in words.split():
                known = getattr(command, "commands", None)
                if known is None:
                    break
                assert word in known, f"{page.name}: `{name}{words}`"
                command = known[word]


def test_no_alert_has_the_name_of_another() -> None:
    names = [each.name for each in objectives.every_alert()]
    assert len(names) == len({*names})


def test_what_is_made_from_code_is_current() -> None:
    old = [path.name for path, text in build.files().items() if path.read_text() != text]
    assert old == [], "run `make observability`"
