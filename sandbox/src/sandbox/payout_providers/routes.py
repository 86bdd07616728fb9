"""APIs of the payout providers, and the controls for tests and demos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl
from uuid import uuid4

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from sandbox.payout_providers.store import (
    DWOLLA_ACCOUNT,
    Answer,
    Behaviour,
    Fates,
    Foreign,
    Forward,
    Move,
    Payouts,
    Transfer,
    dwolla_object,
    fapshi_object,
    stripe_object,
)
from sandbox.stripe.api import refusal

Key = Annotated[str | None, Header(alias="Idempotency-Key")]
Account = Annotated[str | None, Header(alias="Stripe-Account")]
Since = Annotated[int | None, Query(alias="created[gte]")]
Before = Annotated[int | None, Query(alias="created[lt]")]
_SMALLEST_XAF = 100


def create_router(payouts: Payouts) -> APIRouter:
    router = APIRouter()
    _add_controls(router, payouts)
    _add_stripe(router, payouts)
    _add_dwolla(router, payouts)
    _add_fapshi(router, payouts)
    return router


def _add_controls(router: APIRouter, payouts: Payouts) -> None:
    @router.put("/_payouts/behaviour")
    async def behave(behaviour: Behaviour) -> Behaviour:
        payouts.behave(behaviour)
        return behaviour

    @router.put("/_payouts/fates")
    async def fate(fates: Fates) -> Fates:
        payouts.fate(fates)
        return fates

    @router.post("/_payouts/clock")
    async def forward(forward: Forward) -> None:
        payouts.forward(forward.seconds)

    @router.put("/_payouts/transfers/{id_}")
    async def move(id_: str, to: Move) -> None:
        if id_ not in payouts.transfers:
            raise HTTPException(404, "not known here")
        transfer = payouts.transfers[id_]
        transfer.destination = to.destination or transfer.destination
        if to.part is not None:
            payouts.return_part(transfer, to.part)
        elif to.status is not None:
            payouts.move(transfer, to.status)

    @router.post("/_payouts/transfers/{id_}/again")
    async def again(id_: str) -> dict[str, str]:
        """Make the transfer a second time, as the provider's fault."""
        if id_ not in payouts.transfers:
            raise HTTPException(404, "not known here")
        before = payouts.transfers[id_]
        prefix, _, _ = id_.partition("_") if "_" in id_ else ("", "", "")
        new = f"{prefix}_{uuid4().hex[:24]}" if prefix else str(uuid4())
        payouts.accept(replace(before, id=new, at=payouts.now, status="pending", returns=0))
        return {"id": new}

    @router.put("/_payouts/revoked/{account}")
    async def revoke(account: str, yes: bool = True) -> None:
        """Revoke our access to a connected account at Stripe."""
        (payouts.revoked.add if yes else payouts.revoked.discard)(account)

    @router.post("/_payouts/foreign")
    async def foreign(made: Foreign) -> None:
        kind = "transfer" if made.provider == "stripe" else "ach"
        id_, to = uuid4().hex, "somebody"
        transfer = Transfer(made.provider, id_, "", to, made.amount, "USD", kind, payouts.now)
        transfer.more = {"account": None}
        if made.incoming:
            transfer.more |= {"incoming": True}
            transfer.kind, transfer.status = "leg", "paid"
            payouts.legs[id_] = transfer
        else:
            payouts.accept(transfer)

    @router.get("/_payouts")
    async def books() -> dict[str, Any]:
        return payouts.books()


def _add_stripe(router: APIRouter, payouts: Payouts) -> None:
    def make(kind: str, form: dict[str, Any], account: str | None) -> Answer:
        metadata = {
            name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")
        }
        reference = form.get("transfer_group") or metadata.get("paybus_payout", "")
        transfer = Transfer(
            "stripe",
            f"{'tr' if kind == 'transfer' else 'po'}_{uuid4().hex[:24]}",
            reference,
            str(form.get("destination") or account),
            int(form["amount"]),
            form["currency"].upper(),
            kind,
            payouts.now,
            more={"metadata": metadata, "account": account},
        )
        payouts.accept(transfer)
        return Answer(200, stripe_object(transfer))

    async def create(kind: str, request: Request, key: str | None, account: str | None) -> Response:
        if not request.headers.get("authorization", "").startswith("Bearer sk_"):
            return _response(Answer(401, {"error": {"message": "Invalid API Key"}}))
        if account in payouts.revoked:
            return _response(_NO_ACCESS)
        form = dict(parse_qsl((await request.body()).decode()))
        if fault := _fault(kind, form, account):
            return _response(fault)
        said = json.dumps([kind, account, form], sort_keys=True)
        answer = await payouts.once("stripe", key, said, lambda: make(kind, form, account))
        return _response(answer)

    @router.post("/stripe/v1/transfers")
    async def transfer(request: Request, key: Key = None) -> Response:
        return await create("transfer", request, key, None)

    @router.post("/stripe/v1/payouts")
    async def payout(request: Request, key: Key = None, account: Account = None) -> Response:
        return await create("payout", request, key, account)

    async def listed(
        kind: str, account: str | None, group: str | None, since: int | None, before: int | None,
        after: str | None, limit: int,
    ) -> Response:  # fmt: skip
        if account in payouts.revoked:
            return _response(_NO_ACCESS)
        if (failed := await payouts.read("stripe")) is not None:
            return _response(failed)
        found = [
            each
            for each in reversed(payouts.transfers.values())
            if each.kind == kind
            and each.provider == "stripe"
            and (account is None or each.more["account"] == account)
            and (payouts.listed(each) if group is None else each.reference == group)
            and (since is None or each.at >= since)
            and (before is None or each.at < before)
        ]
        if after is not None:
            ids = [each.id for each in found]
            found = found[ids.index(after) + 1 :]
        data = [stripe_object(each) for each in found[:limit]]
        page = {"object": "list", "url": f"/v1/{kind}s", "data": data}
        return JSONResponse(page | {"has_more": len(found) > limit})

    @router.get("/stripe/v1/transfers")
    async def transfers(
        transfer_group: str | None = None,
        since: Since = None,
        before: Before = None,
        starting_after: str | None = None,
        limit: int = 10,
    ) -> Response:
        return await listed("transfer", None, transfer_group, since, before, starting_after, limit)

    @router.get("/stripe/v1/payouts")
    async def list_payouts(
        account: Account = None,
        since: Since = None,
        before: Before = None,
        starting_after: str | None = None,
        limit: int = 10,
    ) -> Response:
        return await listed("payout", account, None, since, before, starting_after, limit)


# https://docs.stripe.com/error-codes#account-invalid
_NO_ACCESS = Answer(
    403,
    {
        "error": {
            "type": "invalid_request_error",
            "code": "account_invalid",
            "message": "The provided key does not have access to account, or it was revoked.",
        }
    },
)


def _fault(kind: str, form: dict[str, str], account: str | None) -> Answer | None:
    if kind == "transfer" and form.get("destination", "").endswith("_gone"):
        error = {"type": "invalid_request_error", "code": "account_invalid"}
        message = "The provided destination does not exist."
        return Answer(400, {"error": error | {"message": message}})
    if kind == "payout" and account is None:
        return Answer(400, {"error": {"type": "invalid_request_error", "message": "no account"}})
    refused = refusal(int(form["amount"]), form["currency"], payout=kind == "payout")
    if refused is not None:
        return Answer(400, {"error": {"type": "invalid_request_error", "message": refused}})
    return None


def _add_dwolla(router: APIRouter, payouts: Payouts) -> None:
    def check(request: Request) -> None:
        if request.headers.get("authorization") != "Bearer dwolla-token":
            raise HTTPException(401, "InvalidAccessToken")

    def make(body: dict[str, Any], base: str) -> Answer:
        source, destination = (
            body["_links"][end]["href"].rsplit("/", 1)[-1] for end in ("source", "destination")
        )
        transfer = Transfer(
            "dwolla",
            str(uuid4()),
            body.get("correlationId", ""),
            destination,
            int(Decimal(body["amount"]["value"]) * 100),
            body["amount"]["currency"],
            "ach",
            payouts.now,
            more={"source": source, "metadata": body.get("metadata", {})},
        )
        payouts.fund(transfer)
        payouts.accept(transfer)
        return Answer(201, None, {"Location": f"{base}/transfers/{transfer.id}"})

    @router.post("/dwolla/transfers")
    async def transfer(request: Request, key: Key = None) -> Response:
        check(request)
        raw = await request.body()
        body = json.loads(raw)
        base = str(request.url).rsplit("/", 1)[0]
        answer = await payouts.once("dwolla", key, raw.decode(), lambda: make(body, base))
        return _response(answer)

    @router.get("/dwolla/accounts/{account}/transfers")
    async def transfers(
        request: Request,
        account: str,
        correlation: Annotated[str | None, Query(alias="correlationId")] = None,
        first: Annotated[str | None, Query(alias="startDate")] = None,
        last: Annotated[str | None, Query(alias="endDate")] = None,
        limit: int = 25,
        offset: int = 0,
    ) -> Response:
        check(request)
        if account != DWOLLA_ACCOUNT:
            raise HTTPException(404, "Account not found.")
        if (failed := await payouts.read("dwolla")) is not None:
            return _response(failed)
        every = [*payouts.legs.values(), *payouts.transfers.values()]
        found = [
            each
            for each in every
            if each.provider == "dwolla"
            and (payouts.listed(each) if correlation is None else each.reference == correlation)
            and (first is None or each.created[:10] >= first)
            and (last is None or each.created[:10] <= last)
        ]
        found.sort(key=lambda each: -each.at)
        page = {
            "_links": {"self": {"href": str(request.url)}},
            "_embedded": {
                "transfers": [dwolla_object(each) for each in found[offset : offset + limit]]
            },
            "total": len(found),
        }
        return JSONResponse(page)


def _add_fapshi(router: APIRouter, payouts: Payouts) -> None:
    def make(body: dict[str, Any]) -> Answer:
        transfer = Transfer(
            "fapshi",
            uuid4().hex[:8],
            body.get("externalId", "").partition("_")[0],
            body["phone"],
            body["amount"],
            "XAF",
            "momo",
            payouts.now,
            more={"userId": body.get("userId"), "externalId": body.get("externalId")},
        )
        payouts.accept(transfer)
        said = {"message": "Accepted", "transId": transfer.id, "dateInitiated": transfer.created}
        return Answer(200, said)

    @router.post("/fapshi/payout")
    async def payout(request: Request, apiuser: Annotated[str, Header()] = "") -> Response:
        if not apiuser:
            raise HTTPException(401, "apiuser and apikey are missing")
        body = await request.json()
        if not isinstance(body.get("amount"), int) or body["amount"] < _SMALLEST_XAF:
            raise HTTPException(400, "amount cannot be less than 100 XAF")
        answer = await payouts.once("fapshi", None, "", lambda: make(body))
        return _response(answer)

    @router.get("/fapshi/search")
    async def search(
        request: Request,
        start: str | None = None,
        end: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
        sort: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """Search the transactions of a service that pays out:
        https://docs.fapshi.com/en/api-reference/endpoint/search-transactions"""
        if (failed := await payouts.read("fapshi")) is not None:
            return _response(failed)
        found = [
            each
            for each in payouts.transfers.values()
            if each.provider == "fapshi"
            and payouts.listed(each)
            and (start is None or each.created[:10] >= start)
            and (end is None or each.created[:10] <= end)
        ]
        found.sort(key=lambda each: each.at)
        if sort == "desc":
            found.reverse()
        return JSONResponse([fapshi_object(each) for each in found[:limit]])

    @router.get("/fapshi/transaction/{user}")
    async def transactions(user: str) -> Response:
        if (failed := await payouts.read("fapshi")) is not None:
            return _response(failed)
        return JSONResponse(list(_of_user(payouts, user)))


def _of_user(payouts: Payouts, user: str) -> Iterator[dict[str, Any]]:
    for each in payouts.transfers.values():
        if each.provider == "fapshi" and each.more["userId"] == user:
            yield fapshi_object(each)


def _response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.body is None:
        return Response(status_code=answer.status, headers=headers)
    return JSONResponse(answer.body, answer.status, headers=headers)
