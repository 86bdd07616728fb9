"""The actions of the console's forms. Each requires a session; operators' actions are logged with
the actor, the time and the reason."""

from __future__ import annotations

import json
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from common.errors import Invalid, NotFound, validation_faults
from common.http.auth import Role
from common.http.resources import Session, part_of
from operations import action_log
from operations.api.requests import DeadLetterSelection, Edit, JournalReplayBody, ReplayBody
from operations.console.rendering import Route, go_to, page
from operations.console.session import (
    ConsoleCookies,
    Form,
    SignedIn,
    check,
    end,
    first,
    read_form,
    sign_in,
    sign_out,
    visit,
)
from operations.domain import LetterState, ReplayState
from operations.monitoring.service_clients import ACTIONS, Services
from operations.replay import planner
from operations.service import OperatorService

forms = APIRouter(prefix="/console", route_class=Route, include_in_schema=False)

WishT = TypeVar("WishT", DeadLetterSelection, ReplayBody, JournalReplayBody, Edit)

_MOVES = {
    "archive": LetterState.ARCHIVED,
    "discard": LetterState.DISCARDED,
    "restore": LetterState.OPEN,
}
FILTERS = (
    "queue", "type", "group", "error", "tenant", "subject", "correlation_id", "text", "since",
    "until",
)  # fmt: skip
_CHANGES = {
    "pause": ReplayState.PAUSED,
    "resume": ReplayState.RUNNING,
    "cancel": ReplayState.CANCELLED,
}


def _secure(request: Request) -> bool:
    return part_of(request, ConsoleCookies).are_secure


@forms.post("/login")
async def login(request: Request) -> Response:
    form = await read_form(request)
    visitor = await visit(request, first(form, "token"))
    response = go_to("/console")
    sign_in(response, visitor.token, secure=_secure(request))
    return response


@forms.post("/logout")
async def logout(request: Request, visitor: SignedIn) -> Response:
    check(visitor, await read_form(request))
    await end(request, visitor)
    response = go_to("/console/login")
    sign_out(response, secure=_secure(request))
    return response


@forms.post("/dead-letters/act")
async def act(request: Request, visitor: SignedIn, session: Session) -> Response:
    """Apply `action` to the dead letters with the given `id`s, to those that a search found
    (`all`), or to all open ones in `group`."""
    form = await read_form(request)
    check(visitor, form)
    visitor.require(Role.OPERATOR)
    operator_service = part_of(request, OperatorService)
    action = first(form, "action")
    chosen = _chosen(form)
    if action in {"replay", "forecast"}:
        wish = _parsed(ReplayBody, chosen | _pace(form)).wish()
        if action == "forecast":
            found = await operator_service.dry_run(session, visitor.caller, wish, visitor.header)
            return page("forecast.html", visitor, forecast=found, form=form, chosen=chosen)
        made = await operator_service.replay(session, visitor.caller, wish, visitor.header)
        return go_to(f"/console/replays/{made.id}")
    if action not in _MOVES:
        raise Invalid("choose an action")
    async with session.begin():
        wish = _parsed(DeadLetterSelection, chosen).wish()
        await operator_service.set_state(session, visitor.caller, wish, _MOVES[action])
    return go_to("/console/dead-letters" if "group" not in form else "/console/groups")


@forms.post("/dead-letters/{id_}/edit")
async def edit(request: Request, visitor: SignedIn, session: Session, id_: str) -> Response:
    form = await read_form(request)
    check(visitor, form)
    visitor.require(Role.ADMIN)
    try:
        changes = json.loads(first(form, "changes"))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the changes are not valid JSON: {error}") from None
    edited = _parsed(Edit, {"changes": changes, "reason": first(form, "reason")})
    operator_service = part_of(request, OperatorService)
    made = await operator_service.edit(session, visitor.caller, id_, edited.changes, edited.reason)
    return go_to(f"/console/replays/{made.id}")


@forms.post("/dead-letters/{id_}/note")
async def note(request: Request, visitor: SignedIn, session: Session, id_: str) -> Response:
    form = await read_form(request)
    check(visitor, form)
    visitor.require(Role.OPERATOR)
    text = first(form, "text")[:10_000]
    if not text:
        raise Invalid("the note is empty")
    operator_service = part_of(request, OperatorService)
    async with session.begin():
        await operator_service.write_note(session, visitor.caller, id_, text)
    return go_to(f"/console/dead-letters/{id_}")


@forms.post("/journal/replay")
async def replay_window(request: Request, visitor: SignedIn, session: Session) -> Response:
    form = await read_form(request)
    check(visitor, form)
    visitor.require(Role.OPERATOR)
    window: dict[str, object] = {
        "queue": first(form, "queue"),
        # A browser's date-and-time field has no time zone.
        "since": f"{first(form, 'since')}Z",
        "until": f"{first(form, 'until')}Z",
        "new_ids": bool(first(form, "new_ids")),
    }
    if type_ := first(form, "type"):
        window["types"] = [type_]
    wish = _parsed(
        JournalReplayBody, {"window": window, "reason": first(form, "reason"), **_pace(form)}
    )
    operator_service = part_of(request, OperatorService)
    made = await operator_service.replay_window(
        session, visitor.caller, wish.window, wish.reason, wish.rate, wish.concurrency
    )
    return go_to(f"/console/replays/{made.id}")


@forms.post("/replays/{id_}/{action}")
async def change(
    request: Request, visitor: SignedIn, session: Session, id_: str, action: str
) -> Response:
    form = await read_form(request)
    check(visitor, form)
    visitor.require(Role.OPERATOR)
    if action not in _CHANGES:
        raise NotFound("a replay can be paused, resumed or cancelled")
    operator_service = part_of(request, OperatorService)
    async with session.begin():
        await operator_service.find_replay(session, visitor.caller, id_)
        reason = first(form, "reason") or None
        await planner.set_state(session, id_, visitor.caller, _CHANGES[action], reason)
    return go_to(f"/console/replays/{id_}")


@forms.post("/jobs/{service}/{name}/{action}")
async def job(
    request: Request, visitor: SignedIn, session: Session, service: str, name: str, action: str
) -> Response:
    check(visitor, await read_form(request))
    visitor.require(Role.OPERATOR)
    operator_service = part_of(request, OperatorService)
    operator_service.only_operating(visitor.caller)
    if action not in ACTIONS:
        raise NotFound(f"the actions for a job are {', '.join(sorted(ACTIONS))}")
    services = part_of(request, Services)
    await services.act(service, name, action, visitor.header)
    async with session.begin():
        action_log.note(session, visitor.caller, f"job {action}", f"job/{service}/{name}", None)
    return go_to("/console/jobs")


def _chosen(form: Form) -> dict[str, object]:
    reason = {"reason": first(form, "reason")}
    if first(form, "all"):  # all results of a search
        chosen = {name: value for name in (*FILTERS, "state") if (value := first(form, name))}
        return reason | {"filter": chosen}
    if ids := form.get("id"):
        return reason | {"ids": ids}
    if group := first(form, "group"):
        return reason | {"filter": {"group": group}}
    raise Invalid("choose at least one dead letter")


def _pace(form: Form) -> dict[str, object]:
    rate = first(form, "rate")
    return {"rate": rate} if rate else {}


def _parsed(model: type[WishT], values: object) -> WishT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Invalid(validation_faults(error)) from None
