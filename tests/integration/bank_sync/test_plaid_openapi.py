"""The Plaid client against Plaid's own description, by a server generated from its OpenAPI file;
and the sandbox against the SDK's models."""

from __future__ import annotations

import os
from pathlib import Path

import plaid
import pytest
from plaid.api.plaid_api import PlaidApi
from plaid.model.accounts_balance_get_request import AccountsBalanceGetRequest
from plaid.model.item_get_request import ItemGetRequest
from plaid.model.item_public_token_exchange_request import ItemPublicTokenExchangeRequest
from plaid.model.transactions_sync_request import TransactionsSyncRequest

from conftest import MakePaybus
from devstack.endpoints import PLAID_CLIENT, PLAID_SECRET
from support.banks import QUICK, everything, exchange, get, open_items, until_synced
from support.openapi_mock import serve
from support.waiting import until

FILE = os.environ.get("PLAID_OPENAPI")


@pytest.mark.skipif(
    FILE is None, reason="PLAID_OPENAPI names no copy of Plaid's OpenAPI file (plaid/plaid-openapi)"
)
def test_the_client_works_unchanged_against_plaid_s_own_description(
    make_paybus: MakePaybus,
) -> None:
    assert FILE is not None
    with serve(Path(FILE)) as mock:
        options = {"base_url": mock.url}
        names = ["bank-sync-api", "bank-sync-worker"]
        with make_paybus(names, bank_options=options, **QUICK) as paybus:
            made = paybus.api("POST", "bank-sync", "/v1/link-tokens", json={"user": "ama"})
            assert made.status_code == 201, made.text
            item = exchange(paybus, "public-sandbox-x")
            assert item["institution_id"] is not None
            until_synced(paybus, item)
            (sync,) = get(paybus, "syncs")["items"]
            assert (sync["status"], sync["error"]) == ("done", None)
            assert everything(paybus, "transactions")
            assert get(paybus, f"items/{item['id']}/balances", max_age_seconds=0)["fresh"]
            url = f"/v1/items/{item['id']}"
            update = paybus.api("POST", "bank-sync", f"{url}/link-token", json={})
            assert update.status_code == 201, update.text
            assert paybus.api("DELETE", "bank-sync", url).status_code == 204
            until(lambda: "POST /item/remove" in mock.called, what="it is removed there")
    assert mock.faults == []
    assert set(mock.called) == {
        "POST /link/token/create",
        "POST /item/public_token/exchange",
        "POST /item/get",
        "POST /institutions/get_by_id",
        "POST /transactions/sync",
        "POST /accounts/balance/get",
        "POST /item/remove",
    }


def test_the_sandbox_answers_as_the_sdk_s_models_have_it(make_paybus: MakePaybus) -> None:
    with make_paybus(["sandbox-providers"]) as paybus:
        (made,) = open_items(paybus, transactions=3)
        configuration = plaid.Configuration(
            host=f"{paybus.layout.url('sandbox-providers')}/plaid",
            api_key={"clientId": PLAID_CLIENT, "secret": PLAID_SECRET},
        )
        api = PlaidApi(plaid.ApiClient(configuration))
        token = api.item_public_token_exchange(
            ItemPublicTokenExchangeRequest(public_token=made["public_token"])
        )["access_token"]
        assert api.item_get(ItemGetRequest(access_token=token))["item"]["item_id"]
        balances = api.accounts_balance_get(AccountsBalanceGetRequest(access_token=token))
        assert len(balances["accounts"]) == 2
        page = api.transactions_sync(TransactionsSyncRequest(access_token=token))
        assert (len(page["added"]), page["has_more"]) == (3, False)
        with pytest.raises(plaid.ApiException, match="INVALID_ACCESS_TOKEN"):
            api.item_get(ItemGetRequest(access_token="access-sandbox-none"))
