"""`paybus endpoints`: compares the endpoints file with what is set at the provider.

Requires ENDPOINTS_FILE. Exit status: 0 success, 1 a difference or a refused request, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import stripe
import typer

from common.cli.toolkit import console, die, plain, run
from common.clients.accounts_file import DEFAULT, AccountsInvalid
from common.clients.stripe import stripe_answers
from common.settings import ReadableFile, Settings, load_or_exit
from webhook_gateway.providers.endpoint import read
from webhook_gateway.providers.endpoint_registry import make, paths_of
from webhook_gateway.providers.stripe import TRANSLATED_TYPES, Stripe

_TIMEOUT_SECONDS = 30
_EVERY_TYPE = "*"
_NO_KEY = "it has no api_key, so that Stripe can't be queried"

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)

ProviderName = Annotated[Literal["stripe"], typer.Argument(help="the provider")]
Name = Annotated[str | None, typer.Option(help="only this endpoint of the file; default: all")]


class _Where(Settings):
    endpoints_file: ReadableFile


def main() -> None:
    run(app)


@app.command()
def check(provider: ProviderName, name: Name = None) -> None:
    """Compare the events that are selected at the provider with those that Paybus translates.

    The endpoint's `api_key` must be allowed to read webhook endpoints. Example: `paybus endpoints
    check stripe`
    """
    agree = [_check(each) for each in _endpoints(provider, name)]
    raise typer.Exit(0 if all(agree) else 1)


@app.command("set-up")
def set_up(
    provider: ProviderName,
    url: Annotated[str, typer.Option(help="the gateway's URL that the provider calls")],
    name: Annotated[str, typer.Option(help="the endpoint of the file")] = DEFAULT,
) -> None:
    """Select the events that Paybus translates, at the webhook endpoint with this URL; create the
    webhook endpoint if there is none.

    The endpoint's `api_key` must be allowed to write webhook endpoints. Other selected events stay.
    Example: `paybus endpoints set-up stripe --url https://pay.example.com/webhooks/stripe`
    """
    (endpoint,) = _endpoints(provider, name)
    if urlsplit(url).path not in paths_of(endpoint.endpoint):
        accepted = ", ".join(paths_of(endpoint.endpoint))
        die(f"the gateway does not serve {url} for {endpoint.endpoint.path}, but {accepted}", 2)
    if not _has_key(endpoint):
        die(f"{endpoint.endpoint.path}: {_NO_KEY}", 1)
    api = _api(endpoint)
    with stripe_answers():
        there = [each for each in _webhook_endpoints(api) if each.url == url]
        if not there:
            events: Any = sorted(TRANSLATED_TYPES)
            made = api.v1.webhook_endpoints.create({"url": url, "enabled_events": events})
            console.print(plain(f"created {made.id}; add its secret to the endpoints file:"))
            console.print(plain(f"{made.secret}"))
            return
        for each in there:
            selection = _selection(each)
            if not selection.missing:
                console.print(plain(f"{each.id} has all events selected"))
                continue
            both: Any = sorted({*each.enabled_events, *TRANSLATED_TYPES})
            api.v1.webhook_endpoints.update(each.id, {"enabled_events": both})
            console.print(plain(f"selected at {each.id}: {', '.join(selection.missing)}"))


@dataclass(frozen=True)
class _Selection:
    """Events that Paybus translates and that are not selected, and selected events that it only
    records."""

    missing: list[str]
    only_recorded: list[str]


def _selection(there: stripe.WebhookEndpoint) -> _Selection:
    selected = {*there.enabled_events}
    missing = set() if _EVERY_TYPE in selected else {*TRANSLATED_TYPES} - selected
    return _Selection(sorted(missing), sorted(selected - TRANSLATED_TYPES))


def _check(endpoint: Stripe) -> bool:
    """Print the differences; return whether there is none that matters."""
    path = endpoint.endpoint.path
    if not _has_key(endpoint):
        console.print(plain(f"{path}: {_NO_KEY}", "bold red"))
        return False
    with stripe_answers():
        there = [
            each
            for each in _webhook_endpoints(_api(endpoint))
            if urlsplit(each.url).path in paths_of(endpoint.endpoint)
        ]
    if not there:
        accepted = ", ".join(paths_of(endpoint.endpoint))
        console.print(plain(f"{path}: Stripe has no webhook endpoint with a path of {accepted}"))
        return False
    agrees = True
    for each in there:
        selection = _selection(each)
        version = each.api_version or "the account's"
        console.print(plain(f"{path}: {each.url} ({each.id}, {each.status}, API {version})"))
        if each.status != "enabled":
            console.print(plain("  it is disabled: Stripe sends nothing", "bold red"))
            agrees = False
        if selection.missing:
            console.print(plain(f"  not selected: {', '.join(selection.missing)}", "bold red"))
            agrees = False
        if selection.only_recorded:
            console.print(plain(f"  only recorded: {', '.join(selection.only_recorded)}"))
    return agrees


def _endpoints(provider: str, name: str | None) -> list[Stripe]:
    """Return the provider's endpoints in the file. Exit if there is none."""
    file = load_or_exit(_Where).endpoints_file
    try:
        listed = read(file)
        found = [
            make(each) for each in listed if each.provider == provider and name in {None, each.name}
        ]
    except AccountsInvalid as error:
        die(str(error), 1)
    if not found:
        die(f"{file} has no endpoint {provider}" + (f"/{name}" if name else ""), 1)
    return [each for each in found if isinstance(each, Stripe)]


def _has_key(endpoint: Stripe) -> bool:
    return bool(endpoint.options.api_key.get_secret_value())


def _api(endpoint: Stripe) -> stripe.StripeClient:
    return stripe.StripeClient(
        endpoint.options.api_key.get_secret_value(),
        base_addresses={"api": str(endpoint.options.base_url).rstrip("/")},
        http_client=stripe.HTTPXClient(timeout=_TIMEOUT_SECONDS, allow_sync_methods=True),
    )


def _webhook_endpoints(api: stripe.StripeClient) -> Iterator[stripe.WebhookEndpoint]:
    """https://docs.stripe.com/api/webhook_endpoints/list"""
    return api.v1.webhook_endpoints.list({"limit": 100}).auto_paging_iter()


if __name__ == "__main__":
    main()
