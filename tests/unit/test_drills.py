"""`make drill ALERT=name` knows alerts that exist."""

from __future__ import annotations

from deploy.observability import drills, objectives


def test_each_drill_is_of_an_alert() -> None:
    assert {*drills.DRILLS} <= {each.name for each in objectives.every_alert()}


def test_an_alert_without_a_drill_is_refused() -> None:
    assert drills.main("NoSuchAlert") == 2
