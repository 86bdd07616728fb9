"""Plaid's API, limited to items, accounts and transactions. https://plaid.com/docs/api/

Paths that are not Plaid's begin with `_`: changes at the bank, and the records to compare with.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from sandbox.plaid.bank import (
    INSTITUTIONS,
    Bank,
    Change,
    Item,
    PlaidFault,
    expiration,
    webhook_body,
)
from sandbox.plaid.keys import Keys
from sandbox.webhook_sender import Postman


class NewItems(BaseModel):
    """Items as if linked by a user; the response has their public tokens."""

    model_config = ConfigDict(extra="forbid")

    client_id: str
    count: int = Field(default=1, ge=1, le=1000)
    transactions: int = Field(default=20, ge=0, le=100_000)
    accounts: int = Field(default=2, ge=1, le=20)
    institution_id: str = "ins_109508"
    webhook: str | None = None


class Happening(BaseModel):
    """Changes of transactions, as numbers; `tell` is whether a webhook reports them, `mutate` the
    number of consecutive syncs that are disturbed between two of their pages."""

    model_config = ConfigDict(extra="forbid")

    add: int = 0
    modify: int = 0
    remove: int = 0
    post: int = 0
    new_accounts: int = 0
    mutate: int | None = None
    ready: bool | None = None
    forget_cursors: bool = False
    tell: bool = True


class Trouble(BaseModel):
    """`code` is the item's error, such as ITEM_LOGIN_REQUIRED; null repairs it."""

    code: str | None
    tell: bool = True


class Limits(BaseModel):
    """Calls that one item allows per minute; null for no limit."""

    per_minute: int | None = None


class PlaidWebhooks:
    """Sends an item's webhooks, signed."""

    def __init__(self, keys: Keys, postman: Postman) -> None:
        self._keys = keys
        self._postman = postman

    def tell(self, item: Item, kind: str, code: str, **more: Any) -> None:
        body = json.dumps(webhook_body(item, kind, code, **more)).encode()
        self._postman.send("plaid", body, self._keys.sign(body), url=item.webhook, patient=True)

    def updates(self, item: Item) -> None:
        ready = {"initial_update_complete": item.ready, "historical_update_complete": item.ready}
        self.tell(item, "TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", **ready)


def create_router(bank: Bank, teller: PlaidWebhooks, secret: str) -> APIRouter:  # noqa: PLR0915
    router = APIRouter(prefix="/plaid")

    async def called(request: Request) -> tuple[str, dict[str, Any]]:
        """Return the client and the body; Plaid accepts credentials in headers or in the body."""
        body = json.loads(await request.body() or b"{}")
        if (body.get("secret") or request.headers.get("plaid-secret")) != secret:
            raise PlaidFault("INVALID_INPUT", "INVALID_API_KEYS")
        return body.get("client_id") or request.headers.get("plaid-client-id", ""), body

    @router.post("/link/token/create")
    async def create_link_token(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        if (token := body.get("access_token")) is not None:  # update mode
            bank.item(client_id, token, well=False)
        elif "transactions" not in body.get("products", ()):
            raise PlaidFault("INVALID_REQUEST", "MISSING_FIELDS")
        link_token = f"link-sandbox-{uuid4()}"
        bank.link_tokens[link_token] = body
        return {"link_token": link_token, "expiration": expiration(), "request_id": _request_id()}

    @router.post("/sandbox/public_token/create")
    async def create_public_token(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        item = bank.open(
            client_id=client_id,
            institution_id=body["institution_id"],
            webhook=(body.get("options") or {}).get("webhook"),
            transactions=20,
        )
        return {"public_token": bank.issue(item), "request_id": _request_id()}

    @router.post("/item/public_token/exchange")
    async def exchange(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        item = bank.exchange(client_id, body["public_token"])
        teller.updates(item)
        return {
            "access_token": item.access_token,
            "item_id": item.id,
            "request_id": _request_id(),
        }

    @router.post("/item/get")
    async def get_item(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        item = bank.item(client_id, body["access_token"], well=False)
        return {"item": _item(item), "status": None, "request_id": _request_id()}

    @router.post("/item/remove")
    async def remove_item(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        bank.remove(bank.item(client_id, body["access_token"], well=False))
        return {"request_id": _request_id()}

    @router.post("/item/webhook/update")
    async def update_webhook(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        item = bank.item(client_id, body["access_token"], well=False)
        item.webhook = body["webhook"]
        return {"item": _item(item), "request_id": _request_id()}

    @router.post("/accounts/get")
    async def get_accounts(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        return _accounts(bank.item(client_id, body["access_token"]))

    @router.post("/accounts/balance/get")
    async def get_balances(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        item = bank.item(client_id, body["access_token"])
        bank.count(item, "BALANCE_LIMIT")
        return _accounts(item)

    @router.post("/transactions/sync")
    async def sync(request: Request) -> Response:
        client_id, body = await called(request)
        item = bank.item(client_id, body["access_token"])
        bank.count(item, "TRANSACTIONS_SYNC_LIMIT")
        page = bank.sync(item, body.get("cursor") or "", body.get("count", 100))
        return Response(page, media_type="application/json")

    @router.post("/institutions/get_by_id")
    async def get_institution(request: Request) -> dict[str, Any]:
        _, body = await called(request)
        id_ = body["institution_id"]
        if id_ not in INSTITUTIONS:
            raise PlaidFault("INVALID_INPUT", "INVALID_INSTITUTION")
        institution = {
            "institution_id": id_,
            "name": INSTITUTIONS[id_],
            "products": ["transactions"],
            "country_codes": ["US"],
            "url": None,
            "routing_numbers": [],
            "oauth": False,
            "connection_availability": "SUPPORTED",
        }
        return {"institution": institution, "request_id": _request_id()}

    @router.post("/sandbox/item/reset_login")
    async def reset_login(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        bank.item(client_id, body["access_token"]).error = "ITEM_LOGIN_REQUIRED"
        return {"reset_login": True, "request_id": _request_id()}

    @router.post("/sandbox/item/fire_webhook")
    async def fire_webhook(request: Request) -> dict[str, Any]:
        client_id, body = await called(request)
        item = bank.item(client_id, body["access_token"], well=False)
        code = body["webhook_code"]
        if code == "SYNC_UPDATES_AVAILABLE":
            teller.updates(item)
        else:
            teller.tell(item, "ITEM", code, error=item.error_body())
        return {"webhook_fired": True, "request_id": _request_id()}

    return router


def create_controls(bank: Bank, teller: PlaidWebhooks) -> APIRouter:
    router = APIRouter(prefix="/plaid")

    @router.post("/_items", status_code=201)
    async def open_items(new: NewItems) -> list[dict[str, str]]:
        made = []
        for _ in range(new.count):
            item = bank.open(
                client_id=new.client_id,
                institution_id=new.institution_id,
                webhook=new.webhook,
                transactions=new.transactions,
                accounts=new.accounts,
            )
            made.append({"item_id": item.id, "public_token": bank.issue(item)})
        return made

    @router.post("/_items/{id_}/public_token")
    async def link_again(id_: str) -> str:
        """Pass Link once more for the same login, as the user."""
        return bank.issue(bank.items[id_])

    @router.post("/_items/{id_}/happenings")
    async def happen(id_: str, what: Happening) -> None:
        item = bank.items[id_]
        for _ in range(what.new_accounts):
            bank.add_account(item, len(item.accounts))
        if what.mutate is not None:
            item.mutations = what.mutate
        if what.ready is not None:
            item.ready = what.ready
        item.cursors_of += what.forget_cursors
        bank.change(item, Change(what.add, what.modify, what.remove, what.post))
        if what.tell:
            teller.updates(item)

    @router.put("/_items/{id_}/trouble")
    async def trouble(id_: str, what: Trouble) -> None:
        item = bank.items[id_]
        item.error = what.code
        if what.tell:
            if what.code is None:
                teller.tell(item, "ITEM", "LOGIN_REPAIRED")
            else:
                teller.tell(item, "ITEM", "ERROR", error=item.error_body())

    @router.post("/_items/{id_}/webhook")
    async def webhook(id_: str, code: str, more: dict[str, Any]) -> None:
        item = bank.items[id_]
        if code == "USER_ACCOUNT_REVOKED":
            bank.revoke_account(item, more.get("account_id", ""))
        teller.tell(item, "ITEM", code, **more)

    @router.put("/_limits")
    async def limit(limits: Limits) -> None:
        bank.per_minute = limits.per_minute

    @router.get("/_books")
    async def books(item_id: str | None = None) -> dict[str, Any]:
        whole = bank.books()
        chosen = whole if item_id is None else {item_id: whole[item_id]} if item_id in whole else {}
        return {"items": chosen, "rate_limited": bank.limited}

    return router


def answer_faults(app: FastAPI) -> None:
    @app.exception_handler(PlaidFault)
    async def answer(_: Request, fault: PlaidFault) -> JSONResponse:
        headers = {"Retry-After": "1"} if fault.status == 429 else None
        return JSONResponse(fault.body(), fault.status, headers)


def _item(item: Item) -> dict[str, Any]:
    return {
        "item_id": item.id,
        "institution_id": item.institution_id,
        "institution_name": INSTITUTIONS[item.institution_id],
        "webhook": item.webhook,
        "error": item.error_body(),
        "available_products": ["balance"],
        "billed_products": ["transactions"],
        "products": ["transactions"],
        "consent_expiration_time": None,
        "update_type": "background",
    }


def _accounts(item: Item) -> dict[str, Any]:
    return {
        "accounts": list(item.accounts.values()),
        "item": _item(item),
        "request_id": _request_id(),
    }


def _request_id() -> str:
    return uuid4().hex[:15]
