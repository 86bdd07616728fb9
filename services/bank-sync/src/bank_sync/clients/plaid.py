"""Plaid, through the official SDK. https://plaid.com/docs/api/

The SDK builds and sends the calls; our own models parse the text of the responses. The SDK's models
take 200 times the CPU for a page (docs/explanation/performance.md) and read amounts as floats.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import plaid
import urllib3
from plaid.api.plaid_api import PlaidApi
from plaid.model.accounts_balance_get_request import AccountsBalanceGetRequest
from plaid.model.country_code import CountryCode
from plaid.model.institutions_get_by_id_request import InstitutionsGetByIdRequest
from plaid.model.item_get_request import ItemGetRequest
from plaid.model.item_public_token_exchange_request import ItemPublicTokenExchangeRequest
from plaid.model.item_remove_request import ItemRemoveRequest
from plaid.model.link_token_create_request import LinkTokenCreateRequest
from plaid.model.link_token_create_request_update import LinkTokenCreateRequestUpdate
from plaid.model.link_token_create_request_user import LinkTokenCreateRequestUser
from plaid.model.products import Products
from plaid.model.transactions_sync_request import TransactionsSyncRequest
from plaid.model.transactions_sync_request_options import TransactionsSyncRequestOptions
from pydantic import AfterValidator, BaseModel, HttpUrl, SecretStr, ValidationError

from bank_sync import domain
from bank_sync.clients.base import (
    CursorRefused,
    InstitutionError,
    InstitutionInfo,
    ItemError,
    LinkedItem,
    LinkToken,
    LinkTokenRequest,
    PaginationMutated,
)
from bank_sync.domain import SyncPage, money
from common.clients.json_api import strip_nul
from common.errors import (
    NotAuthorized,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    Upstream,
    validation_faults,
)

API = HttpUrl("https://production.plaid.com")
PAGE = 500
"""Transactions a page: the most that Plaid gives."""

PRODUCTS = frozenset(Products.allowed_values[("value",)].values())

_RETRY_AFTER_SECONDS = 60.0
_LONGEST_CODE = 100
# https://plaid.com/docs/errors/institution/: permanent errors of a bank.
_FOR_GOOD = frozenset({"INSTITUTION_NO_LONGER_SUPPORTED", "INSTITUTION_REGISTRATION_REQUIRED"})

# At its level DEBUG the SDK logs complete responses, including access tokens.
logging.getLogger("plaid.rest").setLevel(logging.INFO)

ModelT = TypeVar("ModelT", bound=BaseModel)


class Plaid:
    """`max_concurrency` calls run in as many threads, because the SDK blocks during a call."""

    def __init__(
        self,
        client_id: str,
        secret: SecretStr,
        base_url: HttpUrl,
        *,
        timeout: float,
        max_concurrency: int,
        client_name: str,
        products: Sequence[str],
    ) -> None:
        configuration = plaid.Configuration(
            host=str(base_url).rstrip("/"),
            api_key={"clientId": client_id, "secret": secret.get_secret_value()},
        )
        configuration.retries = urllib3.Retry(0)  # retries are decided by our own code
        configuration.connection_pool_maxsize = max_concurrency
        self._api = PlaidApi(_Texts(configuration))
        self._timeout = timeout
        self._client_name = client_name
        self._products = [Products(each) for each in products]
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix="plaid")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def sync(self, access_token: str, cursor: str) -> SyncPage:
        request = TransactionsSyncRequest(
            access_token=access_token,
            count=PAGE,
            options=TransactionsSyncRequestOptions(include_original_description=False),
            **({"cursor": cursor} if cursor else {}),
        )
        return _page(await self._call(self._api.transactions_sync, request, _Sync))

    async def balances(self, access_token: str) -> Sequence[domain.Account]:
        request = AccountsBalanceGetRequest(access_token=access_token)
        found = await self._call(self._api.accounts_balance_get, request, _Accounts)
        return [_account(each) for each in found.accounts]

    async def link_token(self, wish: LinkTokenRequest) -> LinkToken:
        body: dict[str, Any] = {
            "client_name": self._client_name,
            "language": wish.language,
            "country_codes": [CountryCode(each) for each in wish.countries],
            "user": LinkTokenCreateRequestUser(client_user_id=wish.user),
        }
        if wish.webhook is not None:
            body["webhook"] = wish.webhook
        if wish.redirect_uri is not None:
            body["redirect_uri"] = wish.redirect_uri
        if wish.access_token is None:
            body["products"] = self._products
        else:
            body["access_token"] = wish.access_token
            if wish.choose_accounts:
                body["update"] = LinkTokenCreateRequestUpdate(account_selection_enabled=True)
        made = await self._call(
            self._api.link_token_create,
            LinkTokenCreateRequest(**body),
            _LinkToken,
        )
        return LinkToken(made.link_token, made.expiration)

    async def exchange(self, public_token: str) -> LinkedItem:
        request = ItemPublicTokenExchangeRequest(public_token=public_token)
        made = await self._call(self._api.item_public_token_exchange, request, _Exchanged)
        return LinkedItem(made.access_token.get_secret_value(), made.item_id)

    async def institution_of(self, access_token: str) -> str | None:
        request = ItemGetRequest(access_token=access_token)
        found = await self._call(self._api.item_get, request, _ItemAnswer)
        return found.item.institution_id

    async def institution(self, institution_id: str, countries: Sequence[str]) -> InstitutionInfo:
        request = InstitutionsGetByIdRequest(
            institution_id=institution_id, country_codes=[CountryCode(each) for each in countries]
        )
        found = await self._call(self._api.institutions_get_by_id, request, _InstitutionAnswer)
        one = found.institution
        return InstitutionInfo(one.institution_id, one.name, one.url, one.oauth)

    async def remove(self, access_token: str) -> None:
        try:
            await self._call(
                self._api.item_remove,
                ItemRemoveRequest(access_token=access_token),
                _Nothing,
            )
        except ItemError as fault:
            if fault.code not in domain.GONE_ERRORS:
                raise

    async def _call(
        self, operation: Callable[..., Any], request: Any, model: type[ModelT]
    ) -> ModelT:
        def call() -> str:
            said: str = operation(request, _request_timeout=(5, self._timeout))
            return said

        loop = asyncio.get_running_loop()
        try:
            said = await loop.run_in_executor(self._threads, call)
        except plaid.ApiException as error:
            raise _fault(error) from None  # its text contains the response
        except urllib3.exceptions.HTTPError as error:
            raise ProviderTimeout(f"Plaid did not respond ({type(error).__name__})") from None
        try:
            return model.model_validate(_exactly(said))
        except ValidationError as error:
            raise Upstream(
                f"Plaid's response is not as described: {validation_faults(error)}"
            ) from None
        except ValueError:
            raise Upstream("Plaid's response is not JSON") from None


class _Texts(plaid.ApiClient):  # type: ignore[misc]
    """Leaves responses as received."""

    def deserialize(self, response: Any, response_type: Any, _check_type: Any) -> Any:
        return response.data


def _fault(error: plaid.ApiException) -> Exception:
    """Return the exception for an API error: https://plaid.com/docs/errors/"""
    status = error.status or 0
    try:
        body = json.loads(error.body or "")
        code, kind = str(body["error_code"])[:_LONGEST_CODE], str(body["error_type"])
        message = str(body.get("error_message"))
    except (ValueError, TypeError, LookupError, AttributeError):
        code, kind, message = "", "", ""
    said = strip_nul(f"Plaid answers {status} {code}".strip())
    if status == HTTPStatus.TOO_MANY_REQUESTS or kind == "RATE_LIMIT_EXCEEDED":
        return RateLimited(f"{said}: limits the rate of calls", _retry_after(error))
    if code in {"INVALID_API_KEYS", "UNAUTHORIZED_ENVIRONMENT", "INVALID_ENVIRONMENT"}:
        return NotAuthorized(f"{said}: check client_id, secret and base_url")
    if code == "TRANSACTIONS_SYNC_MUTATION_DURING_PAGINATION":
        return PaginationMutated(said, status)
    # The documentation names no code: https://github.com/webhookdb/webhookdb/issues/646
    if code == "INVALID_FIELD" and "cursor" in message:
        return CursorRefused(code, said, status)
    return _refusal(code, kind, said, status)


def _refusal(code: str, kind: str, said: str, status: int) -> Exception:
    if kind == "INSTITUTION_ERROR" and code not in _FOR_GOOD:
        return InstitutionError(said, status)
    later = kind == "API_ERROR" or code == "PRODUCT_NOT_READY"
    if later or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Upstream(said)
    if code:
        return ItemError(code, said, status)
    return ProviderRejected(said, status) if status else ProviderTimeout("Plaid did not respond")


def _retry_after(error: plaid.ApiException) -> float:
    try:
        return min(600.0, max(1.0, float(error.headers["Retry-After"])))
    except (KeyError, TypeError, ValueError):
        return _RETRY_AFTER_SECONDS


Text = Annotated[str, AfterValidator(strip_nul)]


class _Balances(BaseModel):
    available: Decimal | None = None
    current: Decimal | None = None
    limit: Decimal | None = None
    iso_currency_code: Text | None = None
    unofficial_currency_code: Text | None = None


class _Account(BaseModel):
    account_id: Text
    balances: _Balances
    mask: Text | None = None
    name: Text
    official_name: Text | None = None
    type: Text
    subtype: Text | None = None


class _Category(BaseModel):
    primary: Text
    detailed: Text


class _Transaction(BaseModel):
    transaction_id: Text
    account_id: Text
    amount: Decimal
    iso_currency_code: Text | None = None
    unofficial_currency_code: Text | None = None
    date: dt.date
    authorized_date: dt.date | None = None
    datetime: dt.datetime | None = None
    name: Text
    merchant_name: Text | None = None
    pending: bool
    pending_transaction_id: Text | None = None
    payment_channel: Text | None = None
    personal_finance_category: _Category | None = None


class _Removed(BaseModel):
    transaction_id: Text


class _Sync(BaseModel):
    accounts: list[_Account] = []
    added: list[_Transaction]
    modified: list[_Transaction]
    removed: list[_Removed]
    next_cursor: Text
    has_more: bool
    transactions_update_status: str = ""


class _Accounts(BaseModel):
    accounts: list[_Account]


class _LinkToken(BaseModel):
    link_token: Text
    expiration: datetime


class _Exchanged(BaseModel):
    access_token: SecretStr
    item_id: Text


class _Item(BaseModel):
    institution_id: Text | None = None


class _ItemAnswer(BaseModel):
    item: _Item


class _Institution(BaseModel):
    institution_id: Text
    name: Text
    url: Text | None = None
    oauth: bool = False


class _InstitutionAnswer(BaseModel):
    institution: _Institution


class _Nothing(BaseModel):
    pass


def page_of(answer: str) -> SyncPage:
    """Return the page in a /transactions/sync response, given as JSON. Raises `ValidationError`."""
    return _page(_Sync.model_validate(_exactly(answer)))


def _exactly(answer: str) -> Any:
    """Decode JSON with every figure exactly as written: a float has too few digits."""
    return json.loads(answer, parse_float=Decimal, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _page(said: _Sync) -> SyncPage:
    return SyncPage(
        accounts=tuple(_account(each) for each in said.accounts),
        added=tuple(_transaction(each) for each in said.added),
        modified=tuple(_transaction(each) for each in said.modified),
        removed=tuple(each.transaction_id for each in said.removed),
        next_cursor=said.next_cursor,
        has_more=said.has_more,
        complete=said.transactions_update_status == "HISTORICAL_UPDATE_COMPLETE",
    )


def _account(said: _Account) -> domain.Account:
    figures = said.balances
    iso, unofficial = figures.iso_currency_code, figures.unofficial_currency_code

    def units(figure: Decimal | None) -> int | None:
        return None if figure is None else money(figure, iso, unofficial).amount

    return domain.Account(
        account_id=said.account_id,
        name=said.name,
        official_name=said.official_name,
        mask=said.mask,
        type=said.type,
        subtype=said.subtype,
        available=units(figures.available),
        current=units(figures.current),
        limit=units(figures.limit),
        currency=iso or unofficial,
        unofficial=iso is None,
    )


def _transaction(said: _Transaction) -> domain.Transaction:
    category = said.personal_finance_category
    return domain.Transaction(
        transaction_id=said.transaction_id,
        account_id=said.account_id,
        money=money(said.amount, said.iso_currency_code, said.unofficial_currency_code),
        date=said.date,
        authorized_date=said.authorized_date,
        at=said.datetime,
        name=said.name,
        merchant=said.merchant_name,
        pending=said.pending,
        pending_transaction_id=said.pending_transaction_id,
        channel=said.payment_channel,
        category=category.primary if category else None,
        category_detailed=category.detailed if category else None,
    )
