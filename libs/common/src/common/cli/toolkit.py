"""What the services' commands have in common: calling an API, and showing what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import uuid4

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from common.errors import PaybusError

# A file or a pipe has no width: nothing is cut off there.
console = Console() if sys.stdout.isatty() else Console(width=250, no_color=True)


def run(app: typer.Typer) -> None:
    """The command; ends with 1 and a sentence for what it can't do."""
    try:
        app()
    except httpx.HTTPError as error:
        fault = f"the API can't be reached: {type(error).__name__}: {error}"
    except PaybusError as error:
        fault = str(error)
    else:
        return
    typer.echo(fault, err=True)
    sys.exit(1)


class Api:
    """A service's API. `where` says its address and the token to call it with, when it is called;
    paths that begin with no slash are below `prefix`."""

    def __init__(self, where: Callable[[], tuple[str, SecretStr]], *, prefix: str) -> None:
        self._where = where
        self._prefix = prefix

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        url, token = self._where()
        bearer = token.get_secret_value()
        if not (bearer.isascii() and bearer.isprintable()) or " " in bearer:
            die("the token is no JSON Web Token: it has blanks, or what is no ASCII", 2)
        headers = {"Authorization": f"Bearer {bearer}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            yield http

    def path(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._prefix}/{path}"

    def call(self, method: str, path: str, **request: Any) -> Any:
        """What it answers; ends the command with what it says is wrong."""
        with self.client() as http:
            answer = http.request(method, self.path(path), **request)
        if not answer.is_success:
            refused(answer)
        return answer.json()

    def listed(self, path: str, filters: Mapping[str, Any], most: int) -> list[Any]:
        """Up to `most`, over as many pages as that takes."""
        given = {name: value for name, value in filters.items() if value is not None}
        found: list[Any] = []
        cursor = None
        while len(found) < most:
            params = given | {"limit": min(200, most - len(found))}
            page = self.call("GET", path, params=params | ({"cursor": cursor} if cursor else {}))
            found += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        return found


def refused(answer: httpx.Response) -> NoReturn:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:400]
    # Wrongly called, like an option that there is not.
    die(f"{answer.status_code}: {detail}", 2 if answer.status_code in {400, 422} else 1)


def new_call_key(key: str | None) -> Mapping[str, str]:
    if key is None:
        key = f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        typer.echo(f"Idempotency-Key: {key}", err=True)
    return {"Idempotency-Key": key}


def print_table(found: Sequence[Any], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table(box=None)
    for name in columns:
        # Ids are for copying.
        table.add_column(name, no_wrap=name in {"id", "payout_id"}, overflow="fold")
    for each in found:
        table.add_row(*(_cell(each[name]) for name in columns))
    console.print(table)


def _cell(value: Any) -> Text:
    """As it is: what somebody else wrote is neither markup nor a terminal's control code."""
    return plain("" if value is None else str(value))


def plain(text: str, style: str = "") -> Text:
    """For a terminal: no control codes."""
    return Text("".join(each if each.isprintable() else " " for each in text), style=style)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def die(sentence: str, status: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(status)


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = Console(stderr=True)
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield progress, progress.add_task(what, total=None)
