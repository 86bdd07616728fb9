"""`paybus-payouts`: the API from a shell, and what needs the database itself.

Commands that call the API want PAYOUTS_URL and PAYBUS_TOKEN; `verify-audit` and `rotate-keys` want
DATABASE_URL. Status: 0 well, 1 something is wrong, 2 wrongly called.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import uuid4

import httpx
import typer
from pydantic import HttpUrl, SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from common import database
from common.crypto import EncryptionSettings, Unreadable, Vault, new_key
from common.settings import DatabaseSettings, Settings, load
from payouts.models import Attempt, Recipient
from payouts.verifying import Verdict, verify

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
# A file or a pipe has no width: nothing is cut off there.
console = Console() if sys.stdout.isatty() else Console(width=250, no_color=True)

Reason = Annotated[str, typer.Option(help="kept in the audit log")]
AsJson = Annotated[bool, typer.Option("--json", help="for scripts")]
Id = Annotated[str, typer.Argument(help="the payout's id")]
Key = Annotated[
    str | None,
    typer.Option(help="Idempotency-Key: say the same one again and nothing is ordered twice"),
]

_SETTLED = frozenset({"paid", "failed", "returned", "cancelled"})
_ROTATE_BATCH = 500


class ApiAddress(Settings):
    payouts_url: HttpUrl
    paybus_token: SecretStr


class _Keys(DatabaseSettings, EncryptionSettings):
    pass


def main() -> None:
    try:
        app()
    except httpx.HTTPError as error:
        fault = f"the API can't be reached: {type(error).__name__}: {error}"
    except SQLAlchemyError as error:
        fault = f"the database can't be used: {str(error.__cause__ or error).splitlines()[0]}"
    else:
        return
    typer.echo(fault, err=True)
    sys.exit(1)


@app.command()
def status(as_json: AsJson = False) -> None:
    """What waits, whether all is paused, and which providers are not called."""
    found = _call("GET", "payout-jobs/status")
    if as_json:
        _print_json(found)
        return
    control = found["control"]
    if control["paused"]:
        console.print(f"PAUSED by {control['by']}: {control['reason']}", style="bold red")
    if control["ask_first_until"]:
        console.print(f"until {control['ask_first_until']} providers are asked before all")
    table = Table("state", "payouts")
    for state, count in sorted(found["states"].items()):
        table.add_row(state, str(count))
    console.print(table)
    console.print(f"held: {found['held']}; open differences: {found['open_differences']}")
    for circuit in found["circuits"]:
        console.print(f"circuit {circuit['name']} is {circuit['state']}", style="red")


@app.command("list")
def list_(
    state: str | None = None,
    recipient_id: str | None = None,
    batch_id: str | None = None,
    provider: str | None = None,
    currency: str | None = None,
    held: bool | None = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Payouts, the newest first."""
    filters = {
        "state": state,
        "recipient_id": recipient_id,
        "batch_id": batch_id,
        "provider": provider,
        "currency": currency,
        "held": held,
    }
    found = _listed("payout-jobs/jobs", filters, limit)
    columns = ("id", "state", "recipient", "amount", "currency", "provider", "attempts", "error")
    _print_table(found, columns, as_json)


@app.command()
def show(id_: Id) -> None:
    """A payout with its attempts and everything that was done to it."""
    _print_json(_call("GET", f"payout-jobs/jobs/{id_}"))


@app.command()
def order(
    recipient: Annotated[str, typer.Argument(help="its reference")],
    amount: Annotated[int, typer.Argument(help="minor units")],
    currency: str,
    fee: Annotated[int, typer.Option(help="minor units, charged beside it")] = 0,
    funding: Annotated[str, typer.Option(help="direct or balance")] = "direct",
    priority: Annotated[str, typer.Option(help="critical, direct, default or low")] = "direct",
    due_at: Annotated[str | None, typer.Option(help="not before, RFC 3339")] = None,
    key: Key = None,
) -> None:
    """Order one payout."""
    wanted = {
        "recipient": recipient,
        "amount": amount,
        "currency": currency,
        "fee": fee,
        "funding": funding,
        "priority": priority,
        "due_at": due_at,
    }
    made = _call("POST", "payouts", json=wanted, headers=_key(key))
    console.print(f"{made['id']} {made['state']}")


@app.command()
def batch(
    file: Annotated[
        Path,
        typer.Argument(help="CSV: recipient,amount,currency[,fee]", exists=True, dir_okay=False),
    ],
    name: str | None = None,
    key: Key = None,
    wait: Annotated[bool, typer.Option(help="until all are settled")] = True,
) -> None:
    """Order all of a file's payouts or none, and watch them."""
    wanted = {"name": name or file.name, "payouts": list(_payouts_in(file))}
    made = _call("POST", "batches", json=wanted, headers=_key(key), timeout=300)
    console.print(f"batch {made['id']}: {made['payouts']} payouts ordered")
    if wait:
        _watch(made["id"], made["payouts"])


@app.command()
def approve(id_: Id, reason: Reason) -> None:
    """Approve a payout that somebody else ordered."""
    _act("approve", id_, reason)


@app.command()
def hold(id_: Id, reason: Reason) -> None:
    """Keep it from being sent until it is released."""
    _act("hold", id_, reason)


@app.command()
def release(id_: Id, reason: Reason) -> None:
    """Let a held payout go on."""
    _act("release", id_, reason)


@app.command()
def cancel(id_: Id, reason: Reason) -> None:
    """Give up a payout that was not submitted."""
    _act("cancel", id_, reason)


@app.command()
def retry(id_: Id, reason: Reason) -> None:
    """Try a failed or returned payout again; the provider is asked first."""
    _act("retry", id_, reason)


@app.command()
def pause(reason: Reason) -> None:
    """The emergency stop: nothing begins to be sent."""
    _call("POST", "payout-jobs/pause", json={"reason": reason})
    console.print("paused: nothing begins to be sent until `paybus-payouts resume`")


@app.command()
def resume(reason: Reason) -> None:
    """End the emergency stop."""
    _call("POST", "payout-jobs/resume", json={"reason": reason})
    console.print("resumed")


@app.command("ask-first")
def ask_first(
    reason: Reason, days: Annotated[int, typer.Option(min=0, max=365, help="0 ends it")] = 30
) -> None:
    """After a backup was restored: ask the provider before anything is sent."""
    _call("POST", "payout-jobs/ask-first", json={"reason": reason, "days": days})
    console.print(f"for {days} days the provider is asked before anything is sent")


@app.command()
def report(day: Annotated[str | None, typer.Option(help="YYYY-MM-DD, UTC; today")] = None) -> None:
    """A day's report."""
    _print_json(_call("GET", "reports/daily", params={"day": day} if day else {}))


@app.command()
def differences(day: str | None = None, as_json: AsJson = False) -> None:
    """What providers and the ledger say differently."""
    found = _listed("reports/differences", {"day": day}, 100_000)
    columns = ("id", "day", "kind", "payout_id", "transfer_id", "ours", "theirs", "resolved_at")
    _print_table(found, columns, as_json)


@app.command()
def resolve(
    id_: Annotated[str, typer.Argument(help="the difference's id")], reason: Reason
) -> None:
    """A person has dealt with a difference."""
    _call("POST", f"reports/differences/{id_}/resolve", json={"reason": reason})
    console.print(f"{id_} resolved")


@app.command()
def reconcile(day: Annotated[str, typer.Argument(help="YYYY-MM-DD, UTC")]) -> None:
    """Compare a day again, at every account."""
    ordered = _call("POST", "reports/reconciliation", params={"day": day})
    console.print(f"ordered for {ordered['accounts']} accounts; see `paybus-payouts differences`")


@app.command()
def metrics(time_range: Annotated[str, typer.Option(help="such as 24h or 7d")] = "24h") -> None:
    """Counts, success rate, times to paid and volumes."""
    _print_json(_call("GET", "payout-jobs/metrics", params={"time_range": time_range}))


@app.command()
def audit(
    subject: Annotated[str | None, typer.Option(help="payout/<id>, recipient/<id>, ...")] = None,
    actor: str | None = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Who did what, when and why; the newest first."""
    found = _listed("reports/audit", {"subject": subject, "actor": actor}, limit)
    columns = ("position", "at", "actor", "role", "action", "subject", "before", "after", "reason")
    _print_table(found, columns, as_json)


@app.command()
def recipients(reference: str | None = None, as_json: AsJson = False) -> None:
    """Who is paid."""
    found = _listed("recipients", {"reference": reference}, 100_000)
    columns = ("id", "reference", "name", "provider", "account", "currency", "shown", "blocked")
    _print_table(found, columns, as_json)


@app.command("add-recipient")
def add_recipient(
    file: Annotated[Path, typer.Argument(help="JSON, as the API takes it", dir_okay=False)],
) -> None:
    """Add one."""
    try:
        wanted = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        _die(f"{file}: {error}")
    made = _call("POST", "recipients", json=wanted)
    console.print(f"{made['id']} {made['reference']}")


@app.command()
def block(
    id_: Annotated[str, typer.Argument(help="the recipient's id")],
    reason: Reason,
    undo: Annotated[bool, typer.Option("--undo", help="pay it again")] = False,
) -> None:
    """Pay a recipient no more."""
    change = {"blocked": not undo, "reason": reason}
    done = _call("PATCH", f"recipients/{id_}", json=change)
    console.print(f"{done['reference']} {'blocked' if done['blocked'] else 'not blocked'}")


@app.command()
def credit(
    id_: Annotated[str, typer.Argument(help="the recipient's id")],
    amount: Annotated[int, typer.Argument(help="minor units")],
    currency: str,
    reason: Reason,
    key: Key = None,
) -> None:
    """Money that a recipient has earned becomes available."""
    body = {"amount": amount, "currency": currency, "reason": reason}
    balance = _call("POST", f"recipients/{id_}/credits", json=body, headers=_key(key))
    console.print(f"{balance['available']} {balance['currency']} available (minor units)")


@app.command()
def batches(as_json: AsJson = False) -> None:
    """Batches, the newest first."""
    columns = ("id", "name", "payouts", "created_by", "created_at")
    _print_table(_listed("batches", {}, 1000), columns, as_json)


@app.command()
def schedules(as_json: AsJson = False) -> None:
    """The clock's jobs: last run, result, next run."""
    found = _call("GET", "/v1/schedules")
    columns = ("name", "expression", "paused", "next_run_at", "last_outcome", "last_result")
    _print_table(found, columns, as_json)


@app.command()
def job(
    name: Annotated[str, typer.Argument(help="as `schedules` has it")],
    what: Annotated[str, typer.Argument(help="run, pause, resume or cancel")],
) -> None:
    """Run a job now, pause or resume its schedule, or cancel what is ordered and has not begun."""
    if what not in {"run", "pause", "resume", "cancel"}:
        _die("run, pause, resume or cancel", 2)
    _print_json(_call("POST", f"/v1/schedules/{name}/{what}"))


@app.command()
def export(first: str, last: str) -> None:
    """Payouts ordered from one day to another (UTC, both included), as CSV."""
    params = {"first": first, "last": last}
    with _api() as http, http.stream("GET", _path("reports/payouts.csv"), params=params) as answer:
        if not answer.is_success:
            answer.read()
            _refused(answer)
        for chunk in answer.iter_text():
            sys.stdout.write(chunk)


@app.command("new-key")
def new_key_() -> None:
    """Print a key for ENCRYPTION_KEYS."""
    typer.echo(new_key())


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Seal every recipient's details with the first of ENCRYPTION_KEYS; the others may go then."""
    settings = load(_Keys)
    vault = Vault(settings.encryption_keys)
    try:
        renewed = asyncio.run(_rotate(settings, vault))
    except Unreadable as error:
        _die(str(error))
    console.print(f"{renewed} sealed anew, of recipients and attempts")


@app.command("verify-audit")
def verify_audit(
    expect: Annotated[
        str | None, typer.Option(help="POSITION:HASH of a head that was kept elsewhere")
    ] = None,
) -> None:
    """Whether the audit log, the ledger and the balances are as they were written."""
    settings = load(DatabaseSettings)
    known = None
    if expect is not None:
        position, _, hash_ = expect.partition(":")
        if not position.isdecimal() or len(hash_) != 64:
            _die("--expect must look like 1234:<64 hex digits>", 2)
        known = (int(position), hash_)
    verdict = asyncio.run(_verify(settings, known))
    head = ":".join(map(str, verdict.head))
    for fault in verdict.faults:
        typer.echo(f"WRONG: {fault}", err=True)
    typer.echo(
        f"{verdict.entries} audit entries, {verdict.ledger_entries} ledger entries, head {head}"
    )
    if verdict.faults:
        _die("the books were changed: see docs/runbooks/payouts-restore.md")
    typer.echo("whole: nothing was changed, taken out or added")


async def _verify(settings: DatabaseSettings, expect: tuple[int, str] | None) -> Verdict:
    with _progress("entries") as (progress, task):

        def show(done: int, whole: int) -> None:
            progress.update(task, completed=done, total=whole)

        async with database.engine(settings) as engine:
            one_snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
            async with AsyncSession(one_snapshot) as session:
                return await verify(session, expect=expect, progress=show)


async def _rotate(settings: _Keys, vault: Vault) -> int:
    renewed = 0
    async with database.engine(settings) as engine:
        sessions = database.sessions_of(engine)
        tables: tuple[tuple[Any, Any], ...] = ((Recipient, ""), (Attempt, 0))
        for table, first in tables:
            after = first
            while True:
                async with sessions.begin() as session:
                    query = select(table).where(table.id > after).order_by(table.id)
                    query = query.limit(_ROTATE_BATCH).with_for_update()
                    found = (await session.scalars(query)).all()
                    for row in found:
                        if (sealed := vault.renew(row.details)) is not None:
                            row.details = sealed
                            renewed += 1
                if len(found) < _ROTATE_BATCH:
                    break
                after = found[-1].id
    return renewed


def _payouts_in(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # as Excel writes it, too
    except UnicodeDecodeError:
        _die(f"{file} is no UTF-8")
    reader = csv.DictReader(io.StringIO(text))
    if not {"recipient", "amount", "currency"} <= {*(reader.fieldnames or ())}:
        _die(f"{file}:1: wants a first line with recipient,amount,currency[,fee]")
    for number, line in enumerate(reader, start=2):
        try:
            yield {
                "recipient": line["recipient"],
                "amount": int(line["amount"]),
                "fee": int(line.get("fee") or 0),
                "currency": line["currency"],
            }
        except (KeyError, TypeError, ValueError):
            _die(f"{file}:{number}: wants recipient, amount (an integer, minor units), currency")


def _watch(id_: str, whole: int) -> None:
    with _progress("settled") as (progress, task):
        while True:
            states: dict[str, int] = _call("GET", f"batches/{id_}")["states"]
            settled = sum(count for state, count in states.items() if state in _SETTLED)
            progress.update(task, completed=settled, total=whole)
            waiting = states.get("scheduled", 0)
            if settled + waiting == whole:
                break
            time.sleep(1)
    if waiting:
        console.print(f"{waiting} wait for a second person: `paybus-payouts approve`")
    console.print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if states.get("paid", 0) < whole:
        raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = Console(stderr=True)
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield progress, progress.add_task(what, total=None)


def _act(verb: str, id_: str, reason: str) -> None:
    done = _call("POST", f"payout-jobs/{verb}/{id_}", json={"reason": reason})
    held = ", held" if done["held"] else ""
    console.print(f"{id_} {done['state']}{held}")


@contextmanager
def _api() -> Iterator[httpx.Client]:
    settings = load(ApiAddress)
    headers = {"Authorization": f"Bearer {settings.paybus_token.get_secret_value()}"}
    with httpx.Client(base_url=str(settings.payouts_url), headers=headers, timeout=30) as http:
        yield http


def _listed(path: str, filters: Mapping[str, Any], most: int) -> list[Any]:
    """Up to `most`, over as many pages as that takes."""
    given = {name: value for name, value in filters.items() if value is not None}
    found: list[Any] = []
    cursor = None
    while len(found) < most:
        params = given | {"limit": min(200, most - len(found))}
        page = _call("GET", path, params=params | ({"cursor": cursor} if cursor else {}))
        found += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
    return found


def _print_table(found: list[Any], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        _print_json(found)
        return
    table = Table(box=None)
    for name in columns:
        # Ids are for copying.
        table.add_column(name, no_wrap=name in {"id", "payout_id"}, overflow="fold")
    for each in found:
        table.add_row(*(_cell(each[name]) for name in columns))
    console.print(table)


def _path(path: str) -> str:
    return path if path.startswith("/") else f"/api/v1/{path}"


def _call(method: str, path: str, **request: Any) -> Any:
    with _api() as http:
        answer = http.request(method, _path(path), **request)
    if not answer.is_success:
        _refused(answer)
    return answer.json()


def _refused(answer: httpx.Response) -> NoReturn:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:400]
    _die(f"{answer.status_code}: {detail}")


def _key(key: str | None) -> Mapping[str, str]:
    if key is None:
        key = f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        typer.echo(f"Idempotency-Key: {key}", err=True)
    return {"Idempotency-Key": key}


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def _die(sentence: str, status: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    main()
