"""Runs the commands of runbooks as an operator does."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from devstack import warm
from support.paybus import Paybus

RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"

_COMMAND = re.compile(r"`(paybus [^`]+)`")
_MODULES = {"paybus": "operations.cli", "paybus-payouts": "payouts.cli.main"}


def run_command(
    paybus: Paybus, words: Sequence[str], *, role: str, values: Mapping[str, str]
) -> None:
    """Run a command; `values` replace the runbook's placeholders in capitals."""
    program, *arguments = words
    done = warm.run(
        _MODULES[program],
        [values.get(each, each) for each in arguments],
        {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "DATABASE_URL": paybus.layout.databases["payouts"],
            "PAYOUTS_URL": paybus.layout.url("payouts-api"),
            "PAYBUS_URL": paybus.layout.url("operations-api"),
            "PAYBUS_TOKEN": paybus.token(role),
        },
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


class Walk:
    """Executes the lines of restore.md; code replaces steps without a command and those of
    payouts."""

    def __init__(self, paybus: Paybus, backup: datetime) -> None:
        self._paybus = paybus
        self._values = {
            "EARLIER": (backup - timedelta(days=1)).isoformat(),
            "TIME": backup.isoformat(),
            "NOW": datetime.now(UTC).isoformat(),
        }
        text = (RUNBOOKS / "restore.md").read_text()
        self._lines = re.split(r"^(?=\d+\. )", text, flags=re.MULTILINE)[1:]
        assert [each.partition(".")[0] for each in self._lines] == [str(n) for n in range(1, 11)]

    def line(self, number: int) -> None:
        line = self._lines[number - 1]
        roles = re.findall(r"role `(\w+)`", line)
        for command in _COMMAND.findall(line):
            if command not in {"paybus status", "paybus dead-letters list"}:
                words = shlex.split(command)
                role = roles[0] if roles else "operator"
                run_command(self._paybus, words, role=role, values=self._values)


def copy_database(paybus: Paybus, service: str, *, to: str = "", of: str = "") -> None:
    """Copy the service's database to the name `to`, or restore it from the copy `of`. PostgreSQL
    copies a database only while it has no connections."""
    paybus.disconnect(service)
    stack = paybus.system._stack
    own = paybus.layout.databases[service].rpartition("/")[2].partition("?")[0]
    stack.drop_database(to or own)
    stack.database(to or own, owner=f"template_{service}", template=of or own)
