"""The meaning of an external API's responses, and the parts of them that are stored."""

from __future__ import annotations

import gzip

import httpx
import pytest
from pydantic import HttpUrl

from common.clients.json_api import LARGEST_ANSWER_BYTES, excerpt, request_json
from common.contracts.money import minor_units
from common.errors import (
    Conflict,
    Invalid,
    NotAuthorized,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    Upstream,
)
from common.observability.redaction import Redactor
from orders.clients.checkouts import CheckoutStarter
from support.providers import a_provider
from webhook_gateway.providers import pollable


async def answered(status: int, body: str = "{}") -> object:
    """Send a request to a server that gives this response."""
    server = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    async with httpx.AsyncClient(transport=server) as http:
        return await request_json(http, "POST", "https://provider.example")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ProviderRejected),
        (401, NotAuthorized),
        (408, ProviderTimeout),
        (409, ProviderRejected),
        (429, RateLimited),
        (500, Upstream),
        # From an intermediary: the server may still be processing the request.
        (502, ProviderTimeout),
        (503, ProviderTimeout),
        (524, ProviderTimeout),
    ],
)
async def test_only_a_definite_no_is_a_refusal(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await answered(status)
    assert type(caught.value) is error


async def test_an_empty_answer_is_one_and_a_404_is_nothing() -> None:
    assert await answered(202, "") == {}
    assert await answered(404) is None
    for body in ("[]", "<html>", "{"):
        with pytest.raises(Upstream, match="did not return a JSON object"):
            await answered(200, body)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Invalid), (409, Conflict), (422, ProviderRejected), (503, RateLimited), (502, Upstream)],
)
async def test_a_checkout_s_refusal_reaches_the_caller_as_what_it_is(
    status: int, error: type[Exception]
) -> None:
    server = httpx.MockTransport(lambda _: httpx.Response(status, json={"detail": "why"}))
    async with httpx.AsyncClient(transport=server) as http:
        starter = CheckoutStarter(HttpUrl("https://subscription.example"), http)
        with pytest.raises(error) as caught:
            await starter.start("Bearer x", "key", {})
    assert type(caught.value) is error


async def test_an_answer_that_unfolds_without_end_is_not_read() -> None:
    folded = gzip.compress(b" " * (2 * LARGEST_ANSWER_BYTES))
    headers = {"Content-Encoding": "gzip"}
    server = httpx.MockTransport(
        lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(folded))
    )
    async with httpx.AsyncClient(transport=server) as http:
        with pytest.raises(ProviderTimeout, match="more than"):
            await request_json(http, "GET", "https://provider.example")


async def test_a_folded_answer_is_understood() -> None:
    headers = {"Content-Encoding": "gzip"}
    folded = httpx.ByteStream(gzip.compress(b'{"a": 1}'))
    server = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=folded))
    async with httpx.AsyncClient(transport=server) as http:
        assert await request_json(http, "GET", "https://provider.example") == {"a": 1}


@pytest.mark.parametrize("amount", ["1e999999", "1e16", "NaN", "Infinity", "0.5", "1e-999999"])
def test_what_is_no_amount_is_refused_at_once(amount: str) -> None:
    """Writing out the digits of some would take half a minute."""
    with pytest.raises(ValueError, match="not an amount in XAF"):
        minor_units(amount, "XAF")


async def test_a_secret_across_the_cut_is_masked() -> None:
    secret = "merchant-key-0123456789"
    with pytest.raises(ProviderRejected) as caught:
        await answered(400, "x" * 380 + secret)
    kept = excerpt(str(caught.value), Redactor([secret]))
    assert "merch" not in kept


@pytest.mark.parametrize("as_array", [True, False])
async def test_fapshi_s_status_is_read_in_both_forms_that_it_documents(as_array: bool) -> None:
    """https://docs.fapshi.com/en/api-reference/endpoint/payment-status"""
    status: object = {"transId": "t1", "status": "SUCCESSFUL", "amount": 500}
    server = httpx.MockTransport(
        lambda _: httpx.Response(200, json=[status] if as_array else status)
    )
    fapshi = a_provider("fapshi", "secret", api_user="u", api_key="k")
    assert isinstance(fapshi, pollable.PollableProvider)
    async with httpx.AsyncClient(transport=server) as http:
        found = await fapshi.poll(http, pollable.PaymentQuery("t1"))
    assert (found.status, found.amount) == ("succeeded", 500)


def test_what_could_not_be_kept_does_not_keep_a_payment_from_being_told() -> None:
    assert pollable.contact_of("a\0b", {"first": "Ama"}) == pollable.contact_of("ab", None)
    assert pollable.non_empty_texts("a\0", 7, None) == ("a", "7")
    assert excerpt("a\0b", Redactor()) == "ab"
