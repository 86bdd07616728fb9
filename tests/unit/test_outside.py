"""What an outside API's answers mean, and what is kept of them."""

from __future__ import annotations

import httpx
import pytest

from common.errors import RateLimited, Upstream
from common.outside import NoAnswer, NotAuthorized, Refused, call, excerpt
from common.redaction import Redactor
from webhook_gateway import asking


async def answered(status: int, body: str = "{}") -> object:
    """By a server outside that answers so."""
    server = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    async with httpx.AsyncClient(transport=server) as http:
        return await call(http, "POST", "https://provider.example")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, NotAuthorized),
        (408, NoAnswer),
        (409, Refused),
        (429, RateLimited),
        (500, Upstream),
        # Of somebody in between: the other side may still be busy with it.
        (502, NoAnswer),
        (503, NoAnswer),
        (524, NoAnswer),
    ],
)
async def test_only_a_definite_no_is_a_refusal(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await answered(status)
    assert type(caught.value) is error


async def test_an_empty_answer_is_one_and_a_404_is_nothing() -> None:
    assert await answered(202, "") == {}
    assert await answered(404) is None
    with pytest.raises(Upstream, match="no JSON object"):
        await answered(200, "[]")


async def test_a_secret_across_the_cut_is_masked() -> None:
    secret = "merchant-key-0123456789"
    with pytest.raises(Refused) as caught:
        await answered(400, "x" * 380 + secret)
    kept = excerpt(str(caught.value), Redactor([secret]))
    assert "merch" not in kept


def test_what_could_not_be_kept_does_not_keep_a_payment_from_being_told() -> None:
    assert asking.contact("a\0b", {"first": "Ama"}) == asking.contact("ab", None)
    assert asking.texts("a\0", 7, None) == ("a", "7")
    assert excerpt("a\0b", Redactor()) == "ab"
