"""`paybus-payouts`: the payouts API from a shell, and verification of the database.

Commands that call the API need PAYOUTS_URL and PAYBUS_TOKEN; `verify-ledger` needs DATABASE_URL.
Exit status: 0 success, 1 a fault, 2 a usage error.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from common.cli.toolkit import (
    console,
    die,
    new_call_key,
    print_json,
    print_table,
    progress_bar,
    refused,
    run,
)
from payouts.cli.api_client import API, call, listed

# Commands that need the database's packages import them: the others start in half the time.

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
Reason = Annotated[str, typer.Option(help="recorded in the audit log")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Id = Annotated[str, typer.Argument(help="the payout's id")]
Key = Annotated[
    str | None,
    typer.Option(help="Idempotency-Key: with the same key nothing is created twice"),
]

_SETTLED = frozenset({"paid", "failed", "returned", "cancelled"})


def main() -> None:
    run(app)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show payouts by state, whether sending is paused, circuits that are not closed, and accounts
    that are not reconciled."""
    found = call("GET", "control")
    if as_json:
        print_json(found)
        return
    control = found["control"]
    if control["paused"]:
        console.print(f"PAUSED by {control['actor']}: {control['reason']}", style="bold red")
    until = control["status_check_required_until"]
    if until and datetime.fromisoformat(until) > datetime.now(UTC):
        console.print(
            f"until {control['status_check_required_until']} a status check precedes every payment"
        )
    table = Table("state", "payouts")
    for state, count in sorted(found["states"].items()):
        table.add_row(state, str(count))
    console.print(table)
    console.print(f"held: {found['held']}; open discrepancies: {found['open_discrepancies']}")
    for circuit in found["circuits"]:
        console.print(f"circuit {circuit['name']} is {circuit['state']}", style="red")
    for line in _unreconciled(found):
        console.print(line, style="red")


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
    """List payouts, the newest first."""
    filters = {
        "state": state,
        "recipient_id": recipient_id,
        "batch_id": batch_id,
        "provider": provider,
        "currency": currency,
        "held": held,
    }
    found = listed("payouts", filters, limit)
    columns = (
        "id",
        "state",
        "recipient",
        "amount",
        "currency",
        "provider",
        "attempt_count",
        "error",
    )
    print_table(found, columns, as_json)


@app.command()
def show(id_: Id) -> None:
    """Show a payout with its attempts and audit log."""
    print_json(call("GET", f"payouts/{id_}"))


@app.command("create")
def create(
    recipient: Annotated[str, typer.Argument(help="the recipient's reference")],
    amount: Annotated[int, typer.Argument(help="minor units")],
    currency: str,
    fee: Annotated[int, typer.Option(help="minor units, charged in addition")] = 0,
    funding: Annotated[str, typer.Option(help="direct or balance")] = "direct",
    priority: Annotated[str, typer.Option(help="critical, direct, default or low")] = "direct",
    due_at: Annotated[
        str | None, typer.Option(help="when to send it at the earliest, RFC 3339")
    ] = None,
    key: Key = None,
) -> None:
    """Create one payout."""
    request = {
        "recipient": recipient,
        "amount": amount,
        "currency": currency,
        "fee": fee,
        "funding": funding,
        "priority": priority,
        "due_at": due_at,
    }
    made = call("POST", "payouts", json=request, headers=new_call_key(key))
    console.print(f"{made['id']} {made['state']}")


@app.command()
def batch(
    file: Annotated[
        Path,
        typer.Argument(help="CSV: recipient,amount,currency[,fee]", exists=True, dir_okay=False),
    ],
    name: str | None = None,
    key: Key = None,
    wait: Annotated[bool, typer.Option(help="wait until all payouts have completed")] = True,
) -> None:
    """Create all payouts of a file, or none, and follow their progress."""
    request = {"name": name or file.name, "payouts": list(_payouts_in(file))}
    made = call("POST", "batches", json=request, headers=new_call_key(key), timeout=300)
    console.print(f"batch {made['id']}: {made['payouts']} payouts ordered")
    if wait:
        _watch(made["id"], made["payouts"])


@app.command()
def approve(id_: Id, reason: Reason) -> None:
    """Approve a payout that another user created."""
    _act("approve", id_, reason)


@app.command()
def hold(id_: Id, reason: Reason) -> None:
    """Keep a payout from being sent until it is released."""
    _act("hold", id_, reason)


@app.command()
def release(id_: Id, reason: Reason) -> None:
    """Release a held payout."""
    _act("release", id_, reason)


@app.command()
def cancel(id_: Id, reason: Reason) -> None:
    """Cancel a payout that was not submitted."""
    _act("cancel", id_, reason)


@app.command()
def retry(id_: Id, reason: Reason) -> None:
    """Send a failed or returned payout again, after a status check at the provider."""
    _act("retry", id_, reason)


@app.command()
def pause(reason: Reason) -> None:
    """Set the emergency stop: no payout begins to be sent."""
    call("POST", "control/pause", json={"reason": reason})
    console.print("paused: nothing is sent until `paybus-payouts resume`")


@app.command()
def resume(reason: Reason) -> None:
    """End the emergency stop."""
    call("POST", "control/resume", json={"reason": reason})
    console.print("resumed")


@app.command("require-status-check")
def require_status_check(
    reason: Reason,
    days: Annotated[int, typer.Option(min=0, max=365, help="0 ends the requirement")] = 30,
    since: Annotated[
        str | None, typer.Option(help="the restored moment, RFC 3339; default: a week ago")
    ] = None,
) -> None:
    """After a backup was restored: reconcile every account since then before anything is sent, and
    check the status of each payout before it is sent."""
    body = {"reason": reason, "days": days, "since": since}
    call("POST", "control/require-status-check", json=body)
    if days:
        console.print(f"for {days} days the provider's status is checked before each payment")
        console.print("nothing is sent or created before `paybus-payouts wait-reconciled` ends")
    else:
        console.print("only payouts with an attempt are checked at the provider")


@app.command("wait-reconciled")
def wait_reconciled(
    seconds: Annotated[
        float, typer.Option(min=0, help="timeout, after which the exit status is 1")
    ] = 3600,
) -> None:
    """After `require-status-check`: wait until every account is reconciled since the backup."""
    until = time.monotonic() + seconds
    with progress_bar("days reconciled") as (progress, task):
        whole = 0
        while (waiting := call("GET", "control")["unreconciled"]) and (time.monotonic() < until):
            whole = max(whole, len(waiting))
            progress.update(task, completed=whole - len(waiting), total=whole)
            time.sleep(1)
    for line in _unreconciled({"unreconciled": waiting}):
        typer.echo(line, err=True)
    if waiting:
        die("not reconciled: nothing is sent from these accounts or created there")
    console.print("reconciled: forgotten payouts are in the ledger again")


@app.command()
def report(
    day: Annotated[str | None, typer.Option(help="YYYY-MM-DD, UTC; default: today")] = None,
) -> None:
    """Show a day's report."""
    print_json(call("GET", "reports/daily", params={"day": day} if day else {}))


@app.command()
def discrepancies(day: str | None = None, as_json: AsJson = False) -> None:
    """List discrepancies between providers and the ledger."""
    found = listed("reports/discrepancies", {"day": day}, 100_000)
    columns = ("id", "day", "kind", "payout_id", "transfer_id", "ours", "theirs", "resolved_at")
    print_table(found, columns, as_json)


@app.command()
def resolve(
    id_: Annotated[str, typer.Argument(help="the discrepancy's id")], reason: Reason
) -> None:
    """Resolve a discrepancy."""
    call("POST", f"reports/discrepancies/{id_}/resolve", json={"reason": reason})
    console.print(f"{id_} resolved")


@app.command()
def reconcile(day: Annotated[str, typer.Argument(help="YYYY-MM-DD, UTC")]) -> None:
    """Compare a day again, at every account."""
    ordered = call("POST", "reports/reconciliation", params={"day": day})
    console.print(f"ordered for {ordered['accounts']} accounts; see `paybus-payouts discrepancies`")


@app.command()
def metrics(time_range: Annotated[str, typer.Option(help="such as 24h or 7d")] = "24h") -> None:
    """Show counts, success rate, times to paid and volumes."""
    print_json(call("GET", "reports/metrics", params={"time_range": time_range}))


@app.command()
def audit(
    subject: Annotated[str | None, typer.Option(help="payout/<id>, recipient/<id>, ...")] = None,
    actor: str | None = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List who did what, when and why, the newest first."""
    found = listed("reports/audit", {"subject": subject, "actor": actor}, limit)
    columns = ("position", "at", "actor", "role", "action", "subject", "before", "after", "reason")
    print_table(found, columns, as_json)


@app.command()
def recipients(reference: str | None = None, as_json: AsJson = False) -> None:
    """List recipients."""
    found = listed("recipients", {"reference": reference}, 100_000)
    columns = (
        "id",
        "reference",
        "name",
        "provider",
        "account",
        "currency",
        "masked_details",
        "blocked",
    )
    print_table(found, columns, as_json)


@app.command("add-recipient")
def add_recipient(
    file: Annotated[Path, typer.Argument(help="JSON, as the API accepts it", dir_okay=False)],
) -> None:
    """Add a recipient."""
    try:
        request = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        die(f"{file}: {error}")
    made = call("POST", "recipients", json=request)
    console.print(f"{made['id']} {made['reference']}")


@app.command()
def block(
    id_: Annotated[str, typer.Argument(help="the recipient's id")],
    reason: Reason,
    undo: Annotated[bool, typer.Option("--undo", help="unblock the recipient")] = False,
) -> None:
    """Block a recipient: nothing is sent to it."""
    change = {"blocked": not undo, "reason": reason}
    done = call("PATCH", f"recipients/{id_}", json=change)
    console.print(f"{done['reference']} {'blocked' if done['blocked'] else 'not blocked'}")


@app.command()
def credit(
    id_: Annotated[str, typer.Argument(help="the recipient's id")],
    amount: Annotated[int, typer.Argument(help="minor units")],
    currency: str,
    reason: Reason,
    key: Key = None,
) -> None:
    """Credit money that a recipient has earned: it becomes available."""
    body = {"amount": amount, "currency": currency, "reason": reason}
    balance = call("POST", f"recipients/{id_}/credits", json=body, headers=new_call_key(key))
    console.print(f"{balance['available']} {balance['currency']} available (minor units)")


@app.command()
def batches(as_json: AsJson = False) -> None:
    """List batches, the newest first."""
    columns = ("id", "name", "payouts", "created_by", "created_at")
    print_table(listed("batches", {}, 1000), columns, as_json)


@app.command()
def schedules(as_json: AsJson = False) -> None:
    """List scheduled jobs: last run, result, next run."""
    found = call("GET", "/v1/schedules")
    columns = ("name", "expression", "paused", "next_run_at", "last_outcome", "last_result")
    print_table(found, columns, as_json)


@app.command()
def job(
    name: Annotated[str, typer.Argument(help="as listed by `schedules`")],
    what: Annotated[str, typer.Argument(help="run, pause, resume or cancel")],
) -> None:
    """Run a job now, pause or resume its schedule, or cancel runs that have not begun."""
    if what not in {"run", "pause", "resume", "cancel"}:
        die("run, pause, resume or cancel", 2)
    print_json(call("POST", f"/v1/schedules/{name}/{what}"))


@app.command()
def export(first: str, last: str) -> None:
    """Export payouts created from one day to another (UTC, both included), as CSV."""
    params = {"first": first, "last": last}
    with (
        API.client() as http,
        http.stream("GET", API.path("reports/payouts.csv"), params=params) as answer,
    ):
        if not answer.is_success:
            answer.read()
            refused(answer)
        for chunk in answer.iter_text():
            sys.stdout.write(chunk)


@app.command("verify-ledger")
def verify_ledger(
    expect: Annotated[
        str | None, typer.Option(help="POSITION:HASH of a head that was stored elsewhere")
    ] = None,
) -> None:
    """Verify that the audit log, the ledger and the balances are as they were written."""
    from payouts.cli import maintenance  # noqa: PLC0415

    known = None
    if expect is not None:
        position, _, hash_ = expect.partition(":")
        if not position.isdecimal() or len(hash_) != 64:
            die("--expect must look like 1234:<64 hex digits>", 2)
        known = (int(position), hash_)
    with progress_bar("entries") as (progress, task):

        def show(done: int, whole: int) -> None:
            progress.update(task, completed=done, total=whole)

        verdict = asyncio.run(maintenance.verify_books(known, show))
    head = ":".join(map(str, verdict.head))
    for fault in verdict.faults:
        typer.echo(f"WRONG: {fault}", err=True)
    typer.echo(
        f"{verdict.entries} audit entries, {verdict.ledger_entries} ledger entries, head {head}"
    )
    if verdict.faults:
        die("the books were changed: see docs/runbooks/payouts-restore.md")
    typer.echo("intact: nothing was changed, removed or added")


_BATCH_COLUMNS = frozenset({"recipient", "amount", "currency", "fee"})


def _payouts_in(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # Excel writes a byte order mark
    except UnicodeDecodeError:
        die(f"{file} is not UTF-8")
    reader = csv.DictReader(io.StringIO(text))
    if not {"recipient", "amount", "currency"} <= {*(reader.fieldnames or ())}:
        die(f"{file}:1: the first line must be recipient,amount,currency[,fee]")
    if unknown := {*(reader.fieldnames or ())} - _BATCH_COLUMNS:
        # Ignoring these would change what is paid: `funding` or `due_at`, or a report's `state`.
        named = ", ".join(sorted(unknown))
        die(f"{file}:1: unsupported column {named}: create those payouts one by one")
    for number, line in enumerate(reader, start=2):
        try:
            yield {
                "recipient": line["recipient"],
                "amount": int(line["amount"]),
                "fee": int(line.get("fee") or 0),
                "currency": line["currency"],
            }
        except (KeyError, TypeError, ValueError):
            die(f"{file}:{number}: expected recipient, amount (an integer, minor units), currency")


def _watch(id_: str, whole: int) -> None:
    with progress_bar("settled") as (progress, task):
        while True:
            states: dict[str, int] = call("GET", f"batches/{id_}")["states"]
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


def _unreconciled(status: dict[str, Any]) -> Iterator[str]:
    for each in status["unreconciled"]:
        fault = each["fault"] or "it is in progress, or no worker runs"
        yield f"{each['provider']}/{each['account']} is not reconciled for {each['day']}: {fault}"


def _act(verb: str, id_: str, reason: str) -> None:
    done = call("POST", f"payouts/{id_}/{verb}", json={"reason": reason})
    held = ", held" if done["held"] else ""
    console.print(f"{id_} {done['state']}{held}")


if __name__ == "__main__":
    main()
