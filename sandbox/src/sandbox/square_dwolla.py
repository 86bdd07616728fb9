"""Square and Dwolla: their reports of payments, payouts and transfers, by query and by webhook.

`POST /_square/payments`, `/_square/payouts` and `/_dwolla/transfers` create an object, `PUT` on its
id changes its status. Each sends a signed webhook, with the faults that `PUT /_delivery` sets.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field

from sandbox.webhook_sender import Postman


class Money(BaseModel):
    amount: int = Field(description="minor units")
    currency: str = "USD"


class Paid(Money):
    location_id: str = "L1"


class Move(BaseModel):
    status: str


class Books:
    """`square_url` is the notification URL registered at Square, byte for byte."""

    def __init__(self, postman: Postman, secrets: Mapping[str, str], square_url: str) -> None:
        self.things: dict[str, dict[str, Any]] = {}
        self._postman = postman
        self._secrets = secrets
        self._square_url = square_url

    def find(self, id_: str) -> dict[str, Any]:
        if id_ not in self.things:
            raise HTTPException(404, "not known here")
        return self.things[id_]

    def tell_square(self, kind: str, event: str, thing: Mapping[str, Any]) -> None:
        body = {
            "merchant_id": "sandbox",
            "type": f"{kind}.{event}",
            "event_id": str(uuid4()),
            "created_at": _now(),
            "data": {"type": kind, "id": thing["id"], "object": {kind: dict(thing)}},
        }
        raw = json.dumps(body).encode()
        signed = hmac.digest(
            self._secrets["square"].encode(), self._square_url.encode() + raw, "sha256"
        )
        headers = {"x-square-hmacsha256-signature": base64.b64encode(signed).decode()}
        self._postman.send("square", raw, headers)

    def tell_dwolla(self, transfer: Mapping[str, Any]) -> None:
        body = {
            "id": str(uuid4()),
            "resourceId": transfer["id"],
            "topic": f"customer_transfer_{_TOPICS[transfer['status']]}",
            "timestamp": _now(),
            "_links": {"customer": {"href": "https://api-sandbox.dwolla.com/customers/1"}},
        }
        raw = json.dumps(body).encode()
        signed = hmac.new(self._secrets["dwolla"].encode(), raw, "sha256").hexdigest()
        self._postman.send("dwolla", raw, {"X-Request-Signature-SHA-256": signed})


_TOPICS = {"pending": "created", "processed": "completed", "failed": "failed"}


def create_router(books: Books) -> APIRouter:
    router = APIRouter()
    _add_square(router, books)
    _add_dwolla(router, books)
    return router


def _add_square(router: APIRouter, books: Books) -> None:
    def make(kind: str, money: Money, **more: Any) -> dict[str, Any]:
        thing = {"id": uuid4().hex[:22], "amount_money": money.model_dump(), **more}
        books.things[thing["id"]] = thing
        books.tell_square(kind, "created" if kind == "payment" else "sent", thing)
        return thing

    def move(kind: str, id_: str, status: str) -> dict[str, Any]:
        thing = books.find(id_)
        thing["status"] = status
        books.tell_square(kind, "updated" if kind == "payment" else status.lower(), thing)
        return thing

    @router.post("/_square/payments")
    async def make_payment(money: Money) -> dict[str, Any]:
        return make("payment", money, status="APPROVED", order_id=uuid4().hex)

    @router.put("/_square/payments/{id_}")
    async def move_payment(id_: str, to: Move) -> dict[str, Any]:
        return move("payment", id_, to.status)

    @router.post("/_square/payouts")
    async def make_payout(paid: Paid) -> dict[str, Any]:
        money = Money(amount=paid.amount, currency=paid.currency)
        about = {"location_id": paid.location_id, "created_at": _now(), "type": "BATCH"}
        return make("payout", money, status="SENT", **about)

    @router.get("/square/v2/payouts")
    async def payouts(
        location_id: str, begin_time: datetime, end_time: datetime, authorization: Token = ""
    ) -> dict[str, Any]:
        if not authorization.startswith("Bearer "):
            raise HTTPException(401, "UNAUTHORIZED")
        listed = [
            thing
            for thing in books.things.values()
            if thing.get("type") == "BATCH"
            and thing["location_id"] == location_id
            and begin_time <= datetime.fromisoformat(thing["created_at"]) < end_time
        ]
        return {"payouts": listed}

    @router.put("/_square/payouts/{id_}")
    async def move_payout(id_: str, to: Move) -> dict[str, Any]:
        return move("payout", id_, to.status)

    @router.get("/square/v2/payments/{id_}")
    async def payment(id_: str) -> dict[str, Any]:
        return {"payment": books.find(id_)}

    @router.get("/square/v2/payouts/{id_}")
    async def payout(id_: str) -> dict[str, Any]:
        return {"payout": books.find(id_)}


Token = Annotated[str, Header(alias="Authorization")]


def _add_dwolla(router: APIRouter, books: Books) -> None:
    @router.post("/_dwolla/transfers")
    async def make(money: Money) -> dict[str, Any]:
        value = {"value": f"{money.amount / 100:.2f}", "currency": money.currency}
        transfer = {"id": str(uuid4()), "status": "pending", "amount": value, "created": _now()}
        books.things[transfer["id"]] = transfer  # type: ignore[index]
        books.tell_dwolla(transfer)
        return transfer

    @router.put("/_dwolla/transfers/{id_}")
    async def move(id_: str, to: Move) -> dict[str, Any]:
        transfer = books.find(id_)
        if to.status not in _TOPICS:
            raise HTTPException(400, f"a transfer is one of {', '.join(_TOPICS)}")
        transfer["status"] = to.status
        books.tell_dwolla(transfer)
        return transfer

    @router.post("/dwolla/token")
    async def token() -> dict[str, Any]:
        return {"access_token": "dwolla-token", "token_type": "Bearer", "expires_in": 3600}

    @router.get("/dwolla/transfers/{id_}")
    async def transfer(id_: str, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        if authorization != "Bearer dwolla-token":
            raise HTTPException(401, "InvalidAccessToken")
        return books.find(id_)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
