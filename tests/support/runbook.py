"""Runs the commands of runbooks as an operator does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack import warm
from support.paybus import Paybus

RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"

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


def copy_database(paybus: Paybus, service: str, *, to: str = "", of: str = "") -> None:
    """Copy the service's database to the name `to`, or restore it from the copy `of`. PostgreSQL
    copies a database only while it has no connections."""
    paybus.disconnect(service)
    stack = paybus.system._stack
    own = paybus.layout.databases[service].rpartition("/")[2].partition("?")[0]
    stack.drop_database(to or own)
    stack.database(to or own, owner=f"template_{service}", template=of or own)
