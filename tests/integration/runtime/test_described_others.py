"""The stand-ins of Square, Plaid and Dwolla match the providers' descriptions, and Paybus reads
only described fields of responses and webhooks. Sources: the official SDKs of Square and Plaid, and
Dwolla's package for Node (`make descriptions`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plaid.model.accounts_get_response import AccountsGetResponse
from plaid.model.institutions_get_by_id_response import InstitutionsGetByIdResponse
from plaid.model.item_error_webhook import ItemErrorWebhook
from plaid.model.item_get_response import ItemGetResponse
from plaid.model.item_login_repaired_webhook import ItemLoginRepairedWebhook
from plaid.model.item_public_token_exchange_response import ItemPublicTokenExchangeResponse
from plaid.model.item_remove_response import ItemRemoveResponse
from plaid.model.link_token_create_response import LinkTokenCreateResponse
from plaid.model.new_accounts_available_webhook import NewAccountsAvailableWebhook
from plaid.model.pending_disconnect_webhook import PendingDisconnectWebhook
from plaid.model.pending_expiration_webhook import PendingExpirationWebhook
from plaid.model.plaid_error import PlaidError
from plaid.model.sync_updates_available_webhook import SyncUpdatesAvailableWebhook
from plaid.model.transactions_sync_response import TransactionsSyncResponse
from plaid.model.user_account_revoked_webhook import UserAccountRevokedWebhook
from plaid.model.user_permission_revoked_webhook import UserPermissionRevokedWebhook
from pydantic import BaseModel
from square.types.payment import Payment
from square.types.payout import Payout

from bank_sync.clients import plaid as client
from conftest import MakePaybus
from devstack.endpoints import PLAID_CLIENT, PLAID_SECRET
from payouts.providers import dwolla
from sandbox.payout_providers.store import DWOLLA_ACCOUNT
from support import payouts
from support.banks import open_items
from support.described import Path as Keys
from support.described import Read, Shape, faults, json_schema, knows, plaid_types
from support.mailbox import Mailbox, listening
from support.mobile_money import sandbox
from support.paybus import Paybus
from support.providers import a_provider
from support.waiting import until
from webhook_gateway.providers.base import Authentication

DWOLLA = Path(os.environ.get("DWOLLA_PACKAGE", ".paybus/npm/node_modules/dwolla")).resolve()


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with listening() as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus, mailbox: Mailbox) -> Iterator[Paybus]:
    with make_paybus(["sandbox-providers"]) as paybus:
        names = ("square", "dwolla", "plaid")
        urls = {name: f"{mailbox.url}/{name}" for name in names}
        payouts.sandbox(paybus, "PUT", "/_delivery", urls=urls)
        yield paybus


def read_by(provider: Any, webhook: dict[str, Any], **proof: Any) -> set[Keys]:
    """Return the paths that the gateway reads of a webhook."""
    notes: set[Keys] = set()
    provider._translate(
        Read(webhook, notes), Authentication("signature", **proof)
    )  # the parsed webhook
    return notes


def test_square_s(paybus: Paybus, mailbox: Mailbox) -> None:
    gateway = a_provider("square", "secret", notification_url="https://pay.example.com/")
    shapes = {"payment": json_schema.of_model(Payment), "payout": json_schema.of_model(Payout)}
    headers = {"Authorization": "Bearer x"}
    for kind, end in (("payment", "COMPLETED"), ("payout", "PAID"), ("payout", "FAILED")):
        made = sandbox(paybus, "POST", f"/_square/{kind}s", amount=500)
        sandbox(paybus, "PUT", f"/_square/{kind}s/{made['id']}", status=end)
        url = f"{paybus.layout.url('sandbox-providers')}/square/v2/{kind}s/{made['id']}"
        answer = paybus.http.get(url, headers=headers).raise_for_status().json()
        assert faults(shapes[kind], answer[kind]) == []
    until(lambda: len(mailbox.of("/square")) >= 6, what="all of them came")
    for webhook in mailbox.of("/square"):
        # https://developer.squareup.com/docs/webhooks/overview#webhook-event-notification-format
        assert {"merchant_id", "type", "event_id", "created_at", "data"} == webhook.keys()
        kind = webhook["data"]["type"]
        assert faults(shapes[kind], webhook["data"]["object"][kind]) == []
        inside = (p[3:] for p in read_by(gateway, webhook) if p[:3] == ("data", "object", kind))
        assert [each for each in inside if not knows(shapes[kind], each)] == []


_WEBHOOKS: dict[str, Any] = {
    "ERROR": ItemErrorWebhook,
    "LOGIN_REPAIRED": ItemLoginRepairedWebhook,
    "NEW_ACCOUNTS_AVAILABLE": NewAccountsAvailableWebhook,
    "PENDING_DISCONNECT": PendingDisconnectWebhook,
    "PENDING_EXPIRATION": PendingExpirationWebhook,
    "SYNC_UPDATES_AVAILABLE": SyncUpdatesAvailableWebhook,
    "USER_ACCOUNT_REVOKED": UserAccountRevokedWebhook,
    "USER_PERMISSION_REVOKED": UserPermissionRevokedWebhook,
}
_ANSWERS: list[tuple[type[BaseModel], Any]] = [
    (client._Sync, TransactionsSyncResponse),
    (client._Accounts, AccountsGetResponse),
    (client._LinkToken, LinkTokenCreateResponse),
    (client._Exchanged, ItemPublicTokenExchangeResponse),
    (client._ItemAnswer, ItemGetResponse),
    (client._InstitutionAnswer, InstitutionsGetByIdResponse),
]


def fields(model: type[BaseModel], at: Keys = ()) -> Iterator[Keys]:
    """Yield every path that one of our models reads."""
    for name, each in model.model_fields.items():
        yield (*at, name)
        for inner in (each.annotation, *getattr(each.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                is_list = getattr(each.annotation, "__origin__", None) is list
                yield from fields(inner, (*at, name, "[]") if is_list else (*at, name))


@pytest.mark.parametrize(("ours", "theirs"), _ANSWERS)
def test_what_is_read_of_plaid_s_answers_is_described(ours: type[BaseModel], theirs: Any) -> None:
    described = plaid_types.shape(theirs)
    assert [each for each in fields(ours) if not knows(described, each)] == []


def test_plaid_s_stand_in_answers_as_plaid_is_described(paybus: Paybus) -> None:
    (made,) = open_items(paybus, transactions=3)

    def call(path: str, **body: Any) -> dict[str, Any]:
        url = f"{paybus.layout.url('sandbox-providers')}/plaid/{path}"
        keys = {"client_id": PLAID_CLIENT, "secret": PLAID_SECRET}
        answer: dict[str, Any] = paybus.http.post(url, json=keys | body).json()
        return answer

    exchanged = call("item/public_token/exchange", public_token=made["public_token"])
    token = {"access_token": exchanged["access_token"]}
    us = {"country_codes": ["US"]}
    answers: list[tuple[Any, dict[str, Any]]] = [
        (ItemPublicTokenExchangeResponse, exchanged),
        (ItemGetResponse, call("item/get", **token)),
        (AccountsGetResponse, call("accounts/get", **token)),
        (AccountsGetResponse, call("accounts/balance/get", **token)),
        (TransactionsSyncResponse, call("transactions/sync", **token)),
        (LinkTokenCreateResponse, call("link/token/create", products=["transactions"])),
        (
            InstitutionsGetByIdResponse,
            call("institutions/get_by_id", institution_id="ins_109508", **us),
        ),
        (PlaidError, call("item/get", access_token="access-sandbox-none")),
        (ItemRemoveResponse, call("item/remove", **token)),
    ]
    for kind, answer in answers:
        assert faults(plaid_types.shape(kind), answer) == [], kind


def test_plaid_s_stand_in_calls_as_plaid_is_described_and_what_is_read_is(
    paybus: Paybus, mailbox: Mailbox
) -> None:
    gateway = a_provider("plaid", client_id="x", secret="y")
    (made,) = open_items(paybus, webhook=f"{mailbox.url}/plaid")
    item = f"/plaid/_items/{made['item_id']}"
    sandbox(paybus, "POST", f"{item}/happenings", add=1)
    sandbox(paybus, "PUT", f"{item}/trouble", code="ITEM_LOGIN_REQUIRED")
    sandbox(paybus, "PUT", f"{item}/trouble", code=None)
    more: dict[str, dict[str, Any]] = {
        "NEW_ACCOUNTS_AVAILABLE": {},
        "PENDING_DISCONNECT": {
            "reason": "INSTITUTION_MIGRATION",
            "disconnect_time": "2026-12-06T13:25:17Z",
        },
        "PENDING_EXPIRATION": {"consent_expiration_time": "2026-12-06T13:25:17Z"},
        "USER_ACCOUNT_REVOKED": {"account_id": "account"},
        "USER_PERMISSION_REVOKED": {},
    }
    for code, said in more.items():
        sandbox(paybus, "POST", f"{item}/webhook?code={code}", **said)

    def came() -> dict[str, dict[str, Any]]:
        return {each["webhook_code"]: each for each in mailbox.of("/plaid")}

    until(lambda: came().keys() >= _WEBHOOKS.keys(), what="all of them came")
    somewhere = [plaid_types.shape(each) for each in _WEBHOOKS.values()]
    for code, webhook in came().items():
        assert faults(plaid_types.shape(_WEBHOOKS[code]), webhook) == [], code
        read = read_by(gateway, webhook, occasion="a token")  # all codes share one translation
        assert [p for p in read if not any(knows(each, p) for each in somewhere)] == []


def _of_dwolla(*names: str) -> dict[str, Shape]:
    script = Path(__file__).parents[2] / "support/described/dwolla_types.mjs"
    command = ["node", str(script), str(DWOLLA), *names]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: json_schema.shape(each, each) for name, each in _described(made).items()}


def _described(made: str) -> dict[str, Any]:
    """Parse the package's schema, but replace the example names of `metadata`: callers may choose
    up to ten names of their own (https://developers.dwolla.com/docs/api-reference/transfers)."""

    def free(thing: dict[str, Any]) -> dict[str, Any]:
        if "metadata" in thing.get("properties", {}):
            texts = {"type": "object", "additionalProperties": {"type": "string"}}
            thing["properties"]["metadata"] = texts
        return thing

    found: dict[str, Any] = json.loads(made, object_hook=free)
    return found


@pytest.mark.skipif(not DWOLLA.exists(), reason="`make descriptions` fetches it, by npm")
def test_dwolla_s(paybus: Paybus, mailbox: Mailbox) -> None:
    shapes = _of_dwolla("transfer.Transfer", "transfers.Transfers", "event.Event")
    base = f"{paybus.layout.url('sandbox-providers')}/dwolla"
    headers = {"Authorization": "Bearer dwolla-token"}
    order = {
        "_links": {
            "source": {"href": f"{base}/funding-sources/707177c3-bf15-4e7e-b37c-55c3898d9bf4"},
            "destination": {"href": f"{base}/funding-sources/ours"},
        },
        "amount": {"currency": "USD", "value": "5.00"},
        "metadata": {"payout": "a-payout", "recipient": "at least one weight"},
        "correlationId": "a-payout",
    }
    made = paybus.http.post(f"{base}/transfers", json=order, headers=headers).raise_for_status()
    assert made.status_code == 201
    listed = f"{base}/accounts/{DWOLLA_ACCOUNT}/transfers?correlationId=a-payout"
    page = paybus.http.get(listed, headers=headers).raise_for_status().json()
    assert faults(shapes["transfers.Transfers"], page) == []
    assert len(page["_embedded"]["transfers"]) >= 2, "a transfer and its funding"
    notes: set[Keys] = set()
    for each in page["_embedded"]["transfers"]:
        assert faults(shapes["transfer.Transfer"], each) == []
        dwolla._listed(Read(each, notes))  # recorded as the client reads it
    assert ("metadata", "recipient") in notes
    assert [each for each in notes if not knows(shapes["transfer.Transfer"], each)] == []
    until(lambda: mailbox.of("/dwolla"), what="it calls")
    gateway = a_provider("dwolla", "secret")
    for webhook in mailbox.of("/dwolla"):
        # A webhook is an event with one more field:
        # https://developers.dwolla.com/docs/webhook-events
        event = {key: value for key, value in webhook.items() if key != "timestamp"}
        assert faults(shapes["event.Event"], event) == []
        unknown = {e for e in read_by(gateway, webhook) if not knows(shapes["event.Event"], e)}
        assert unknown == {("timestamp",)}
