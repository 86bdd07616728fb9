"""Fapshi, MTN MoMo, Orange Money and Flutterwave: payments, their status, and callbacks.

`PUT /_payments/{provider}/_{reference}` acts as the payer: it completes a payment and sends the
callback. `POST /_forge` sends a callback with a false claim.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Header, HTTPException, Request, Response
from pydantic import BaseModel

from sandbox.mobile_money.store import (
    MobileMoney,
    Payment,
    Standing,
    fapshi,
    flutterwave,
    flutterwave_charges,
    mtn,
)
from sandbox.webhook_sender import Delivery


class Settle(BaseModel):
    """`at` is when the payer paid, if not now; `silently` suppresses the callback."""

    standing: Standing
    at: datetime | None = None
    silently: bool = False


class MixUp(BaseModel):
    with_: str


class Amount(BaseModel):
    amount: str


class Forge(BaseModel):
    provider: str
    reference: str
    claim: Standing


def create_router(money: MobileMoney, public_url: str) -> APIRouter:
    """Return the routes. `public_url` is the base URL of the payment pages."""
    router = APIRouter()
    _add_fapshi(router, money, public_url)
    _add_mtn(router, money)
    _add_orange(router, money, public_url)
    _add_flutterwave(router, money, public_url)

    @router.put("/_delivery")
    async def deliver(delivery: Delivery) -> Delivery:
        urls = delivery.urls or money.postman.delivery.urls
        money.postman.delivery = delivery.model_copy(update={"urls": urls})
        return money.postman.delivery

    @router.put("/_payments/{provider}/_{reference}")
    async def settle(provider: str, reference: str, settle: Settle) -> None:
        payment = money.known(provider, reference)
        money.settle(payment, settle.standing, settle.at, silently=settle.silently)

    @router.post("/_payments/flutterwave/_{reference}/again")
    async def charge_again(reference: str) -> None:
        """Pay the same payment a second time, as the payer."""
        money.charge_again(money.known("flutterwave", reference))

    @router.put("/_payments/{provider}/_{reference}/mix_up")
    async def mix_up(provider: str, reference: str, other: MixUp) -> None:
        """Return the other payment in response to status queries about this one."""
        money.payments[provider, reference] = money.payments[provider, other.with_]

    @router.put("/_payments/{provider}/_{reference}/amount")
    async def pay_other(provider: str, reference: str, other: Amount) -> None:
        """Pay an amount other than the requested one, as the payer."""
        money.known(provider, reference).amount = other.amount

    @router.post("/_forge")
    async def forge(forge: Forge) -> None:
        payment = money.known(forge.provider, forge.reference)
        money.call_back(payment, forge.claim, surely=True)

    @router.get("/_money")
    async def books() -> dict[str, Any]:
        return {
            "payments": [
                {
                    "provider": each.provider,
                    "reference": each.reference,
                    "external": each.external,
                    "standing": each.standing,
                    "amount": each.amount,
                    "asked": each.asked,
                }
                for each in money.payments.values()
            ],
            "asked": money.asked,
            "callbacks": money.postman.counts,
        }

    return router


def _add_fapshi(router: APIRouter, money: MobileMoney, public_url: str) -> None:
    @router.post("/fapshi/initiate-pay")
    async def initiate(request: Request, apiuser: Annotated[str, Header()] = "") -> dict[str, Any]:
        if not apiuser:
            raise HTTPException(401, "apiuser and apikey are missing")
        body = await request.json()
        if not isinstance(body.get("amount"), int) or body["amount"] < 100:
            raise HTTPException(400, "amount cannot be less than 100 XAF")
        payment = Payment(
            "fapshi",
            uuid4().hex[:8],
            body.get("externalId", ""),
            body["amount"],
            "XAF",
            more={"email": body.get("email")},
        )
        money.add(payment)
        link = f"{public_url}/pay/fapshi/{payment.reference}"
        return {"message": "Request successful", "link": link, "transId": payment.reference}

    @router.get("/fapshi/payment-status/{reference}")
    async def status(reference: str) -> dict[str, Any]:
        return fapshi(money.find("fapshi", reference))


def _add_mtn(router: APIRouter, money: MobileMoney) -> None:
    @router.post("/mtn-momo/collection/token/")
    async def token() -> dict[str, Any]:
        return {"access_token": "mtn-token", "token_type": "access_token", "expires_in": 3600}

    @router.post("/mtn-momo/collection/v1_0/requesttopay", status_code=202)
    async def request_to_pay(
        request: Request,
        x_reference_id: Annotated[str, Header()],
        x_callback_url: Annotated[str | None, Header()] = None,
    ) -> Response:
        if ("mtn-momo", x_reference_id) in money.payments:
            raise HTTPException(409, "Duplicated reference id. Creation of resource failed.")
        if UUID(x_reference_id).version != 4:
            raise HTTPException(400, "X-Reference-Id must be a UUID of version 4")
        body = await request.json()
        more = {"payer": body["payer"]}
        if x_callback_url:
            more["callback_url"] = x_callback_url
        payment = Payment(
            "mtn-momo", x_reference_id, body["externalId"], body["amount"], body["currency"]
        )
        payment.more = more
        money.add(payment)
        return Response(status_code=202)

    @router.get("/mtn-momo/collection/v1_0/requesttopay/{reference}")
    async def status(reference: str) -> dict[str, Any]:
        return mtn(money.find("mtn-momo", reference))


def _add_orange(router: APIRouter, money: MobileMoney, public_url: str) -> None:
    @router.post("/orange-money/oauth/v3/token")
    async def token(request: Request) -> dict[str, Any]:
        if await request.body() != b"grant_type=client_credentials":
            raise HTTPException(400, "unsupported_grant_type")
        return {"token_type": "Bearer", "access_token": "orange-token", "expires_in": 3600}

    @router.post("/orange-money/orange-money-webpay/{country}/v1/webpayment", status_code=201)
    async def web_payment(country: str, request: Request) -> dict[str, Any]:
        body = await request.json()
        if len(body["order_id"]) > 30 or ("orange-money", body["order_id"]) in money.payments:
            raise HTTPException(400, "order_id is too long, or known already")
        pay_token, notif_token = uuid4().hex, uuid4().hex
        more = {"pay_token": pay_token, "notif_token": notif_token}
        payment = Payment(
            "orange-money", body["order_id"], body["order_id"], body["amount"], body["currency"]
        )
        payment.more = more | {"callback_url": body.get("notif_url")}
        money.payments["orange-money", payment.reference] = payment
        return {
            "status": 201,
            "message": "OK",
            "pay_token": pay_token,
            "payment_url": f"{public_url}/pay/orange-money/{pay_token}",
            "notif_token": notif_token,
        }

    @router.post("/orange-money/orange-money-webpay/{country}/v1/transactionstatus")
    async def status(country: str, request: Request) -> dict[str, Any]:
        body = await request.json()
        payment = money.find("orange-money", body["order_id"])
        if (body["pay_token"], body["amount"]) != (payment.more["pay_token"], payment.amount):
            raise HTTPException(400, "order, amount and pay token do not belong together")
        txnid = f"MP{payment.reference[:8]}"
        return {"status": payment.status, "order_id": payment.reference, "txnid": txnid}


def _add_flutterwave(router: APIRouter, money: MobileMoney, public_url: str) -> None:
    @router.post("/flutterwave/v3/payments")
    async def pay(request: Request) -> dict[str, Any]:
        body = await request.json()
        if not (body.get("customer") or {}).get("email"):
            raise HTTPException(400, "customer email is required")
        payment = Payment(
            "flutterwave",
            body["tx_ref"],
            body["tx_ref"],
            body["amount"],
            body["currency"],
            more={"customer": body.get("customer")},
        )
        money.add(payment)
        link = {"link": f"{public_url}/pay/flutterwave/{payment.reference}"}
        return {"status": "success", "message": "Hosted Link", "data": link}

    @router.get("/flutterwave/v3/transactions/verify_by_reference")
    async def verify(tx_ref: str) -> dict[str, Any]:
        payment = money.find("flutterwave", tx_ref)
        if payment.standing == "pending":  # an unused link has no transaction yet
            raise HTTPException(400, "No transaction was found for this id")
        message = "Transaction fetched successfully"
        return {"status": "success", "message": message, "data": flutterwave(payment)}

    @router.get("/flutterwave/v3/transactions")
    async def listed(tx_ref: str, status: str = "") -> dict[str, Any]:
        """List transactions:
        https://developer.flutterwave.com/v3.0/reference/get-multiple-transactions"""
        payment = money.find("flutterwave", tx_ref)
        found = [] if payment.standing == "pending" else flutterwave_charges(payment)
        found = [each for each in found if status in {"", each["status"]}]
        pages = {"page_info": {"total": len(found), "current_page": 1, "total_pages": 1}}
        return {"status": "success", "message": "ok", "meta": pages, "data": found}
