"""`paybus`: dead letters, replays, the journal and scheduled jobs from a shell.

Requires PAYBUS_URL (the operations service's API) and PAYBUS_TOKEN. Exit status: 0 success, 1 a
problem or a refused request, 2 wrong usage. `paybus --install-completion` enables completion in
your shell.
"""

from __future__ import annotations

import json
import time
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import jwt
import typer
from pydantic import Field, HttpUrl, SecretStr
from rich.table import Table

from common.cli.toolkit import Api, console, die, plain, print_json, print_table, progress_bar, run
from common.settings import Settings, load_or_exit

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
dead = typer.Typer(help="Inspect, replay and resolve dead letters.", no_args_is_help=True)
replays = typer.Typer(help="List, watch and control replays.", no_args_is_help=True)
journal = typer.Typer(help="Search, trace and replay published events.", no_args_is_help=True)
app.add_typer(dead, name="dead-letters")
app.add_typer(replays, name="replays")
app.add_typer(journal, name="journal")

Reason = Annotated[str, typer.Option(help="recorded in the action log with your name and the time")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Limit = Annotated[int, typer.Option(min=1, max=100_000)]
Rate = Annotated[int | None, typer.Option(min=1, help="messages per second; default: no limit")]
Concurrency = Annotated[int, typer.Option(min=1, help="the maximum number of messages in flight")]
Type = Annotated[str | None, typer.Option("--type")]
Where = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE: a further filter; NAME is an option of `list`"),
]
All = Annotated[bool, typer.Option("--all", help="all open dead letters")]
Ids = Annotated[list[str] | None, typer.Argument(help="the dead letters' ids")]
ReplayId = Annotated[str, typer.Argument(help="the replay's id")]
Wait = Annotated[bool, typer.Option(help="show the progress until the replay has finished")]

_LONG = frozenset({"payload", "stack", "history", "notes", "neighbours"})
_COLUMNS = {"neighbours": ("recorded_at", "type", "source", "correlation_id")}
_OVER = frozenset({"done", "cancelled"})
_BAD = ("failed_again", "skipped")
_PATIENCE_SECONDS = 60


class _Where(Settings):
    paybus_url: HttpUrl
    paybus_token: SecretStr = Field(min_length=1)


def _where() -> tuple[str, SecretStr]:
    settings = load_or_exit(_Where)
    return str(settings.paybus_url), settings.paybus_token


API = Api(_where, prefix="/v1")


def main() -> None:
    run(program())


@cache
def program() -> typer.Typer:
    """Return the command with what the services offer that are installed here."""
    for command in entry_points(group="paybus.commands"):
        app.add_typer(command.load(), name=command.name)
    return app


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show services, RabbitMQ, queues that hold messages or lack a consumer, and dead letters.

    Exits with 1 if a component is not well or a queue has no consumer. Example: `paybus status`
    """
    found = API.call("GET", "/health/detailed")
    states = {"rabbitmq": found["broker"]}
    states |= {name: each["state"] for name, each in found["services"].items()}
    if found["gateway"] is not None:
        states["webhook-gateway"] = found["gateway"]
    lonely = [each["name"] for each in found["queues"] if each["has_no_consumer"]]
    well = all(state == "ok" for state in states.values()) and not lonely
    if as_json:
        print_json(found)
    else:
        for name, state in states.items():
            console.print(plain(f"{name}: {state}", "green" if state == "ok" else "bold red"))
        for name, each in found["services"].items():
            figures = each["figures"] or {"outbox": 0, "circuits": []}
            if figures["outbox"]:
                since = figures["outbox_since"]
                console.print(plain(f"{name}: {figures['outbox']} events wait since {since}"))
            for circuit in figures["circuits"]:
                said = f"{name}: {circuit['name']} is {circuit['state']} at {circuit['worker']}"
                console.print(plain(said, "red"))
        for each in found["providers"]:
            if each["refused"]:
                said = f"{each['endpoint']}: {each['refused']} webhooks refused, the last because "
                console.print(plain(said + str(each["last_reason"]), "red"))
        table = Table("queue", "messages", "consumers", "since", box=None)
        for each in found["queues"]:
            if each["messages"] or each["has_no_consumer"]:
                shown = (str(each["messages"]), str(each["consumers"]), each["since"] or "")
                table.add_row(each["name"], *shown)
        console.print(table)
        console.print(f"waiting for a retry: {found['retries_waiting']}")
        for queue, count in found["dead_letters"].items():
            console.print(f"{queue}: {count} dead letters")
        failed = found["failed"]
        console.print(
            f"failed in the last hour: {failed['last_hour']}, in the hour before: "
            f"{failed['previous_hour']}, in the last day: {failed['last_day']}"
        )
    raise typer.Exit(0 if well else 1)


@dead.command("groups")
def groups(queue: str | None = None, type_: Type = None, as_json: AsJson = False) -> None:
    """List groups of dead letters with the same cause, the largest first.
    Example: `paybus dead-letters groups`"""
    found = API.call("GET", "dead-letters/groups", params=_given(queue=queue, type=type_))
    print_table(
        found, ("id", "count", "last_hour", "previous_hour", "queue", "type", "summary"), as_json
    )


@dead.command("list")
def list_(
    queue: str | None = None,
    type_: Type = None,
    group: str | None = None,
    error: str | None = None,
    tenant: str | None = None,
    subject: str | None = None,
    correlation_id: str | None = None,
    text: str | None = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    state: Annotated[str, typer.Option(help="open, archived, ..., any")] = "open",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.
    Example: `paybus dead-letters list --queue payouts.default`"""
    filters = {
        "queue": queue,
        "type": type_,
        "group": group,
        "error": error,
        "tenant": tenant,
        "subject": subject,
        "correlation_id": correlation_id,
        "text": text,
        "since": since,
        "until": until,
        "state": state,
    }
    found = API.listed("dead-letters", filters, limit)
    print_table(
        found,
        ("id", "dead_lettered_at", "queue", "type", "state", "failure_count", "error"),
        as_json,
    )


@dead.command()
def show(
    id_: Annotated[str, typer.Argument(help="the dead letter's id")], as_json: AsJson = False
) -> None:
    """Show one dead letter: payload (masked), attempts, stack, notes and neighbours."""
    found = API.call("GET", f"dead-letters/{id_}")
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if name not in _LONG and value is not None:
            console.print(plain(f"{name}: {value}", "red" if name == "error" else ""))
    for name in ("history", "notes", "neighbours"):
        if found[name]:
            columns = _COLUMNS.get(name) or tuple(found[name][0])
            print_table(found[name], columns, as_json=False)
    print_json(found["payload"])
    for line in found["stack"].splitlines():
        console.print(plain(line))


@dead.command("replay")
def replay(
    reason: Reason,
    ids: Ids = None,
    queue: str | None = None,
    group: str | None = None,
    type_: Type = None,
    where: Where = None,
    all_: All = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only report what the replay would do")
    ] = False,
    rate: Rate = None,
    concurrency: Concurrency = 1000,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again: the given ids, or the open ones that match the filters.

    Exits with 1 if one failed again or was skipped. Example:
    `paybus dead-letters replay --group 8c0... --reason "the back end is up again"`
    """
    wanted = _selection(reason, ids, where, all_, queue=queue, group=group, type=type_)
    wanted |= {"rate": rate, "concurrency": concurrency, "dry_run": dry_run}
    said = API.call("POST", "replays", json=wanted)
    if dry_run or not wait:
        print_json(said)
        return
    _watch(said["id"], as_json)


@dead.command()
def discard(
    reason: Reason,
    ids: Ids = None,
    queue: str | None = None,
    group: str | None = None,
    type_: Type = None,
    where: Where = None,
    all_: All = False,
) -> None:
    """Discard dead letters. Their content is retained for a limited time."""
    chosen = _selection(reason, ids, where, all_, queue=queue, group=group, type=type_)
    _move("discard", chosen)


@dead.command()
def archive(
    reason: Reason,
    ids: Ids = None,
    queue: str | None = None,
    group: str | None = None,
    type_: Type = None,
    where: Where = None,
    all_: All = False,
) -> None:
    """Archive dead letters: they are hidden, and `restore` brings them back."""
    chosen = _selection(reason, ids, where, all_, queue=queue, group=group, type=type_)
    _move("archive", chosen)


@dead.command()
def restore(
    reason: Reason,
    ids: Ids = None,
    queue: str | None = None,
    group: str | None = None,
    type_: Type = None,
    where: Where = None,
) -> None:
    """Reopen archived or discarded dead letters. Example:
    `paybus dead-letters restore --where state=discarded --queue payouts.default --reason "..."`"""
    chosen = _selection(reason, ids, where, False, queue=queue, group=group, type=type_)
    _move("restore", chosen)


@dead.command()
def edit(
    id_: Annotated[str, typer.Argument(help="the dead letter's id")],
    changes: Annotated[
        str, typer.Option(help="changes to `data` as a JSON merge patch (RFC 7396)")
    ],
    reason: Reason,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Send a dead letter with changed data, as a new event in its place.

    Requires the role admin and EDIT_AND_REPLAY_ENABLED.

    Example: `paybus dead-letters edit 5f0... --changes '{"amount": 500}' --reason "it was 500"`
    """
    try:
        wanted = {"changes": json.loads(changes), "reason": reason}
    except ValueError as error:
        die(f"--changes is not valid JSON: {error}", 2)
    said = API.call("POST", f"dead-letters/{id_}/edit", json=wanted)
    if wait:
        _watch(said["id"], as_json)
    else:
        print_json(said)


@dead.command()
def note(id_: Annotated[str, typer.Argument(help="the dead letter's id")], text: str) -> None:
    """Add a note to a dead letter."""
    API.call("POST", f"dead-letters/{id_}/notes", json={"text": text})
    console.print("noted")


@replays.command("list")
def list_replays(limit: Limit = 20, as_json: AsJson = False) -> None:
    """List replays, the newest first."""
    found = API.listed("replays", {}, limit)
    columns = (
        "id",
        "state",
        "completed",
        "total",
        "description",
        "reason",
        "created_by",
        "created_at",
    )
    print_table(found, columns, as_json)


@replays.command("show")
def show_replay(id_: ReplayId, items: bool = False) -> None:
    """Show a replay's progress; with --items, also each message and its outcome."""
    found = API.call("GET", f"replays/{id_}")
    if items:
        found["items"] = API.listed(f"replays/{id_}/items", {}, 100_000)
    print_json(found)


@replays.command()
def watch(id_: ReplayId, as_json: AsJson = False) -> None:
    """Show a replay's progress until it ends."""
    _watch(id_, as_json)


@replays.command()
def pause(id_: ReplayId, reason: Reason) -> None:
    """Pause a replay. Messages that their consumers already have are not stopped."""
    _change(id_, "pause", reason)


@replays.command()
def resume(id_: ReplayId, reason: Reason) -> None:
    """Resume a paused replay."""
    _change(id_, "resume", reason)


@replays.command()
def cancel(id_: ReplayId, reason: Reason) -> None:
    """Cancel a replay permanently; dead letters that were not sent are open again."""
    _change(id_, "cancel", reason)


@journal.command()
def search(
    type_: Type = None,
    tenant: str | None = None,
    subject: str | None = None,
    correlation_id: str | None = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Search the journal, the newest events first.
    Example: `paybus journal search --type 'payment.*' --subject in_123`"""
    filters = {
        "type": type_,
        "tenant": tenant,
        "subject": subject,
        "correlation_id": correlation_id,
        "since": since,
        "until": until,
    }
    found = API.listed("journal", filters, limit)
    columns = ("offset", "recorded_at", "type", "subject", "summary", "correlation_id")
    print_table(found, columns, as_json)


@journal.command()
def trace(
    correlation_id: Annotated[str, typer.Argument(help="as found in logs and events")],
    as_json: AsJson = False,
) -> None:
    """Show the life of one payment across all services, with times."""
    found = API.call("GET", f"journal/trace/{quote(correlation_id, safe='')}")
    if as_json:
        print_json(found)
        return
    table = Table("after", "recorded", "type", "source", "subject", "summary", box=None)
    for step in found["steps"]:
        entry = step["entry"]
        after = f"+{step['after_seconds']:.3f} s"
        texts = [
            entry[each] or "" for each in ("recorded_at", "type", "source", "subject", "summary")
        ]
        table.add_row(after, *map(plain, texts))
    console.print(table)
    for letter in found["dead_letters"]:
        line = f"dead letter {letter['id']} in {letter['queue']} ({letter['state']}): "
        console.print(plain(line + letter["error"], "red"))


@journal.command("replay")
def replay_window(
    queue: Annotated[str, typer.Argument(help="the queue that receives the events again")],
    since: Annotated[str, typer.Option(help="RFC 3339")],
    until: Annotated[str, typer.Option(help="RFC 3339")],
    reason: Reason,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="only these event types")
    ] = None,
    new_ids: Annotated[
        bool,
        typer.Option("--new-ids", help="as new events: their effects are applied again (admin)"),
    ] = False,
    rate: Rate = None,
    concurrency: Concurrency = 1000,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Send the events of a time window to a queue again; those already processed have no effect."""
    window = {
        "queue": queue,
        "since": since,
        "until": until,
        "types": type_ or [],
        "new_ids": new_ids,
    }
    wanted = {"window": window, "reason": reason, "rate": rate, "concurrency": concurrency}
    said = API.call("POST", "journal/replays", json=wanted)
    if wait:
        _watch(said["id"], as_json)
    else:
        print_json(said)


@app.command()
def schedules(as_json: AsJson = False) -> None:
    """List the scheduled jobs of all services: last run, next run, duration, result."""
    found = API.call("GET", "jobs")
    if as_json:
        print_json(found)
        return
    for each in found:
        if each["problem"] is not None:
            console.print(plain(f"{each['service']}: {each['problem']}", "red"))
    columns = (
        "service", "name", "expression", "paused", "next_run_at", "last_run_at",
        "last_duration_seconds", "last_outcome", "last_result",
    )  # fmt: skip
    print_table([each for each in found if each["problem"] is None], columns, False)


@app.command()
def job(
    service: str,
    name: Annotated[str, typer.Argument(help="as listed by `schedules`")],
    action: Annotated[str, typer.Argument(help="run, pause, resume or cancel")],
) -> None:
    """Run a scheduled job now, pause it, resume it, or cancel its requested run."""
    API.call("POST", f"jobs/{service}/{name}/{action}")
    console.print(f"{service}/{name}: {action}")


@app.command()
def token() -> None:
    """Show the subject, tenant, roles and expiry of PAYBUS_TOKEN."""
    try:
        said = jwt.decode(load_or_exit(_Where).paybus_token.get_secret_value(), options=_UNCHECKED)
    except jwt.PyJWTError as error:
        die(f"PAYBUS_TOKEN is not a JSON Web Token: {error}")
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(said.get("exp", 0))))
    known = {"subject": said.get("sub"), "tenant": said.get("tenant"), "roles": said.get("roles")}
    print_json(known | {"until": until})


_UNCHECKED: Any = {"verify_signature": False}


def _given(**filters: Any) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}


def _selection(
    reason: str, ids: list[str] | None, where: list[str] | None, all_: bool, **filters: Any
) -> dict[str, Any]:
    given = _given(**filters)
    for each in where or ():
        name, there, value = each.partition("=")
        if not there:
            die(f"--where {each}: write NAME=VALUE", 2)
        given[name.replace("-", "_")] = value
    if bool(ids) + bool(given) + all_ != 1:
        die(
            "name the dead letters: ids, filters (--queue, --group, --type, --where), or --all",
            2,
        )
    return {"reason": reason} | ({"ids": ids} if ids else {"filter": given})


def _move(action: str, wanted: dict[str, Any]) -> None:
    moved = API.call("POST", f"dead-letters/{action}", json=wanted)
    console.print(f"{moved['count']} dead letters")


def _change(id_: str, action: str, reason: str) -> None:
    said = API.call("POST", f"replays/{id_}/{action}", json={"reason": reason})
    console.print(f"{id_}: {said['state']}")


def _watch(id_: str, as_json: bool) -> None:
    typer.echo(f"replay {id_}; it continues if you stop watching", err=True)
    with progress_bar("replayed") as (bar, task):
        while True:
            said = _told_of(id_)
            bar.update(task, completed=said["completed"], total=said["total"] or None)
            if said["state"] in _OVER and said["completed"] == said["total"]:
                break
            time.sleep(0.5)
    if as_json:
        print_json(said)
    else:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(said["counts"].items()))
        console.print(f"{id_} is {said['state']}: {counts or 'nothing matched'}")
        for state in _BAD:
            if said["counts"].get(state):
                _why(id_, state)
    raise typer.Exit(1 if any(said["counts"].get(state) for state in _BAD) else 0)


def _told_of(id_: str) -> Any:
    """Return the replay's state. Retries for up to a minute while the API is unreachable."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return API.call("GET", f"replays/{id_}")
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _why(id_: str, state: str) -> None:
    """Print the reasons of the first few items in `state`."""
    for each in API.listed(f"replays/{id_}/items", {"state": state}, 5):
        why = each["detail"] or f"see `paybus dead-letters show {each['dead_letter_id']}`"
        console.print(plain(f"  {state}, {each['queue']}: {why}", "red"))


if __name__ == "__main__":
    main()
