"""A finance app whose users link their banks, compared with the stand-in's books."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from devstack.endpoints import PLAID_CLIENT
from support.mobile_money import sandbox
from support.paybus import Paybus
from support.waiting import until

PROCESSES = ["sandbox-providers", "webhook-gateway", "bank-sync-api", "bank-sync-worker"]
# As in production, but with short intervals.
QUICK = {
    "BANKS_INTERVAL_SECONDS": "0.5",
    "BANK_SYNC_LEASE_SECONDS": "3",
    "PROVIDER_TIMEOUT_SECONDS": "2",
}
OPTIONS = {"item_syncs": 10_000, "client_syncs": 100_000, "circuit_reset_seconds": 1}


def open_items(paybus: Paybus, count: int = 1, **more: Any) -> list[dict[str, str]]:
    """Create items at the bank and return their public tokens, as Link does."""
    request = {"client_id": PLAID_CLIENT, "count": count, **more}
    made: list[dict[str, str]] = sandbox(paybus, "POST", "/plaid/_items", **request)
    return made


def link(paybus: Paybus, *, user: str | None = None, **more: Any) -> dict[str, Any]:
    """Link a user's bank; its first sync is enqueued."""
    (made,) = open_items(paybus, **more)
    return exchange(paybus, made["public_token"], user=user)


def exchange(paybus: Paybus, public_token: str, *, user: str | None = None) -> dict[str, Any]:
    request = {"public_token": public_token, "user": user or f"user-{uuid4().hex[:8]}"}
    answer = paybus.api("POST", "bank-sync", "/v1/items", json=request)
    assert answer.status_code == 201, answer.text
    item: dict[str, Any] = answer.json()
    return item


def happen(paybus: Paybus, item: Mapping[str, Any], **what: Any) -> None:
    """Make something happen to the item at the bank."""
    sandbox(paybus, "POST", f"/plaid/_items/{item['item_id']}/happenings", **what)


def get(paybus: Paybus, path: str, **params: Any) -> Any:
    answer = paybus.api("GET", "bank-sync", f"/v1/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def everything(paybus: Paybus, path: str, **params: Any) -> list[dict[str, Any]]:
    """Fetch all pages."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(paybus, path, limit=200, **params, **cursor)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def until_synced(paybus: Paybus, item: Mapping[str, Any]) -> None:
    """Wait until no sync of the item is queued or running."""
    id_ = item["id"]

    def quiet() -> bool:
        syncs = get(paybus, "syncs", item=id_)["items"]
        return bool(syncs) and not [e for e in syncs if e["status"] in {"queued", "running"}]

    until(quiet, what="it is synced")


def at_the_bank(paybus: Paybus, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bank's accounts and transactions by id, in the form of `at_paybus`."""
    url = f"/plaid/_books?item_id={item['item_id']}"
    (books,) = sandbox(paybus, "GET", url)["items"].values()
    return {
        "accounts": {
            id_: (_cents(each["balances"]["current"]), each["name"])
            for id_, each in books["accounts"].items()
        },
        "transactions": {
            id_: (
                _cents(each["amount"]),
                each["date"],
                each["merchant_name"],
                each["pending"],
                each["account_id"],
            )
            for id_, each in books["transactions"].items()
        },
    }


def at_paybus(paybus: Paybus, item: Mapping[str, Any]) -> dict[str, Any]:
    transactions = everything(paybus, "transactions", item=item["id"])
    accounts = everything(paybus, "accounts", item=item["id"])  # fetched last: includes all
    names = {each["id"]: each["account_id"] for each in accounts}
    return {
        "accounts": {each["account_id"]: (each["current"], each["name"]) for each in accounts},
        "transactions": {
            each["transaction_id"]: (
                each["amount"],
                each["date"],
                each["merchant"],
                each["pending"],
                names[each["account"]],
            )
            for each in transactions
        },
    }


def _cents(figure: float) -> int:
    return round(figure * 100)
