"""What a Django shop writes: the SDK's models, and the ORM's upserts in bulk, page by page."""

import os

import plaid
from plaid.api.plaid_api import PlaidApi
from plaid.model.item_public_token_exchange_request import ItemPublicTokenExchangeRequest
from plaid.model.transactions_sync_request import TransactionsSyncRequest

from benchmarks.peer.models import BankTransaction
from devstack.endpoints import PLAID_CLIENT, PLAID_SECRET

_CHANGED = ["account", "amount", "currency", "date", "name", "merchant", "pending", "category"]


def api() -> PlaidApi:
    keys = {"clientId": PLAID_CLIENT, "secret": PLAID_SECRET}
    configuration = plaid.Configuration(host=os.environ["PEER_PLAID_URL"], api_key=keys)
    return PlaidApi(plaid.ApiClient(configuration))


def sync(public_token: str) -> None:
    client = api()
    token = client.item_public_token_exchange(
        ItemPublicTokenExchangeRequest(public_token=public_token)
    )["access_token"]
    cursor, more = "", True
    while more:
        answer = client.transactions_sync(
            TransactionsSyncRequest(access_token=token, cursor=cursor, count=500)
        )
        rows = [
            BankTransaction(
                transaction_id=each["transaction_id"],
                account=each["account_id"],
                amount=round(each["amount"] * 100),
                currency=each["iso_currency_code"],
                date=each["date"],
                name=each["name"],
                merchant=each["merchant_name"],
                pending=each["pending"],
                category=each["personal_finance_category"]["primary"],
            )
            for each in [*answer["added"], *answer["modified"]]
        ]
        BankTransaction.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["transaction_id"],
            update_fields=_CHANGED,
        )
        removed = [each["transaction_id"] for each in answer["removed"]]
        BankTransaction.objects.filter(transaction_id__in=removed).delete()
        cursor, more = answer["next_cursor"], answer["has_more"]
