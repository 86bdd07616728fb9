"""Operators' actions are refused without the required role, in the API, the console and the CLI."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.routing import APIRoute
from typer.testing import CliRunner

from conftest import MakePaybus
from operations.cli import app
from operations.console.forms import forms
from support.console import Browser
from support.operations import PROCESSES, QUICK, get
from support.paybus import Paybus

_WINDOW = {
    "queue": "subscription.billing",
    "since": "2026-11-01T00:00:00Z",
    "until": "2030-01-01T00:00:00Z",
}
_FIELDS = {name: value.removesuffix("Z") for name, value in _WINDOW.items()} | {"reason": "?"}
_TIMES = ("--since", _WINDOW["since"], "--until", _WINDOW["until"])
_ONE = {"ids": ["1"], "reason": "?"}
_WHY = {"reason": "?"}
# Actions that change nothing, or that do not belong to this API alone.
_FREE = {"/console/login", "/console/logout"}
_READING = {
    "status", "schedules", "token", "dead-letters groups", "dead-letters list",
    "dead-letters show", "replays list", "replays show", "replays watch", "journal search",
    "journal trace",
}  # fmt: skip
# Commands of other packages, which use a provider's API by its own key.
_ELSEWHERE = {"endpoints check", "endpoints set-up"}


@dataclass(frozen=True)
class Act:
    """`path` and `body` are the API's; `form` and `fields` the console's; `command` the CLI's. An
    empty one means that this interface has no such action."""

    path: str
    body: dict[str, Any] | None
    form: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    role: str = "operator"

    @property
    def below(self) -> str:
        return {"operator": "viewer", "admin": "approver"}[self.role]


def _move(name: str) -> Act:
    fields = {"action": name, "id": "1", **_WHY}
    command = ("dead-letters", name, "1", "--reason", "?")
    return Act(f"dead-letters/{name}", _ONE, "dead-letters/act", fields, command)


def _change(name: str) -> Act:
    command = ("replays", name, "1", "--reason", "?")
    return Act(f"replays/1/{name}", _WHY, f"replays/1/{name}", _WHY, command)


def _job(name: str) -> Act:
    path = f"jobs/operations/clean-up/{name}"
    return Act(path, None, path, {}, ("job", "operations", "clean-up", name))


_ACTS = [
    *map(_move, ("archive", "restore", "discard")),
    *map(_change, ("pause", "resume", "cancel")),
    *map(_job, ("run", "pause", "resume", "cancel")),
    Act(
        "replays",
        _ONE,
        "dead-letters/act",
        {"action": "replay", "id": "1", **_WHY},
        ("dead-letters", "replay", "1", "--reason", "?"),
    ),
    Act(
        "replays",
        _ONE | {"dry_run": True},
        "dead-letters/act",
        {"action": "forecast", "id": "1", **_WHY},
        ("dead-letters", "replay", "1", "--dry-run", "--reason", "?"),
    ),
    Act(
        "dead-letters/1/notes",
        {"text": "?"},
        "dead-letters/1/note",
        {"text": "?"},
        ("dead-letters", "note", "1", "?"),
    ),
    Act(
        "dead-letters/1/edit",
        {"changes": {"a": 1}, "reason": "?"},
        "dead-letters/1/edit",
        {"changes": '{"a": 1}', "reason": "?"},
        ("dead-letters", "edit", "1", "--changes", '{"a": 1}', "--reason", "?"),
        role="admin",
    ),
    Act(
        "journal/replays",
        {"window": _WINDOW, "reason": "?"},
        "journal/replay",
        _FIELDS,
        ("journal", "replay", _WINDOW["queue"], *_TIMES, "--reason", "?"),
    ),
    Act(
        "journal/replays",
        {"window": _WINDOW | {"new_ids": True}, "reason": "?"},
        "journal/replay",
        _FIELDS | {"new_ids": "yes"},
        ("journal", "replay", _WINDOW["queue"], *_TIMES, "--new-ids", "--reason", "?"),
        role="admin",
    ),
]


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, **QUICK) as paybus:
        yield paybus


@pytest.mark.parametrize("act", _ACTS, ids=lambda act: act.path.replace("/", " "))
def test_an_action_is_refused_without_its_role(paybus: Paybus, act: Act) -> None:
    before = get(paybus, "actions")["items"]
    path = f"/v1/{act.path}"
    answer = paybus.api("POST", "operations", path, json=act.body, role=act.below)
    assert (answer.status_code, act.role in answer.text) == (403, True), answer.text
    nobody = paybus.http.post(f"{paybus.layout.url('operations-api')}{path}", json=act.body)
    assert nobody.status_code == 401
    if act.form:
        shown = Browser(paybus, role=act.below).send(f"/{act.form}", **act.fields)
        assert (shown.status_code, act.role in shown.text) == (403, True), shown.text
        assert Browser(paybus, role=None).post(f"/{act.form}", **act.fields).status_code == 401
    if act.command:
        env = {
            "PAYBUS_URL": paybus.layout.url("operations-api"),
            "PAYBUS_TOKEN": paybus.token(act.below),
        }
        ended = CliRunner().invoke(app, list(act.command), env=env)
        assert ended.exit_code != 0
        assert act.role in ended.output + str(ended.exception)
    assert get(paybus, "actions")["items"] == before, "nothing was done"


def test_no_action_is_left_out_above(paybus: Paybus) -> None:
    document = paybus.http.get(f"{paybus.layout.url('operations-api')}/openapi.json").json()
    changing = {
        path.removeprefix("/v1/")
        for path, methods in document["paths"].items()
        if methods.keys() - {"get"} and not path.startswith("/v1/schedules/")
    }
    assert {path for path in changing if not _fits(path, [act.path for act in _ACTS])} == set()
    posts = {route.path for route in forms.routes if isinstance(route, APIRoute)} - _FREE
    paths = {path.removeprefix("/console/") for path in posts}
    assert {path for path in paths if not _fits(path, [act.form for act in _ACTS])} == set()
    commands = {
        " ".join(filter(None, (group.name, command.name or command.callback.__name__)))
        for group in app.registered_groups
        for command in (group.typer_instance.registered_commands if group.typer_instance else [])
        if command.callback is not None
    } | {each.callback.__name__ for each in app.registered_commands if each.callback is not None}
    tried = {" ".join(act.command[:2]) for act in _ACTS} | {
        act.command[0] for act in _ACTS if act.command
    }
    assert commands - _READING - _ELSEWHERE - tried == set()


def _fits(pattern: str, paths: list[str]) -> bool:
    """Return whether a path matches a route with `{names}`."""
    wanted = pattern.split("/")
    for path in paths:
        parts = path.split("/")
        if len(parts) == len(wanted) and all(
            want.startswith("{") or want == part for want, part in zip(wanted, parts, strict=True)
        ):
            return True
    return False
