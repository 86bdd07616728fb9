"""Every endpoint of every service requires a token and the role in its description.

Endpoints are taken from the services' own OpenAPI documents, so new ones are included
automatically.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from conftest import MakePaybus
from devstack.tokens import DevKeys
from security.forging import forged
from support.paybus import Paybus

SERVICES = ("subscription", "provisioning", "payouts", "bank-sync", "orders", "operations")
_ROLES = ("viewer", "operator", "approver", "admin")


@dataclass(frozen=True)
class Endpoint:
    service: str
    method: str
    path: str
    roles: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.service} {self.method} {self.path}"


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus([f"{service}-api" for service in SERVICES]) as paybus:
        yield paybus


@pytest.fixture(scope="module")
def endpoints(paybus: Paybus) -> list[Endpoint]:
    return described(paybus)


def described(paybus: Paybus) -> list[Endpoint]:
    """Return all endpoints that the services describe."""
    found = []
    for service in SERVICES:
        url = f"{paybus.layout.url(f'{service}-api')}/openapi.json"
        document = paybus.http.get(url).raise_for_status().json()
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                roles = [role for each in described.get("security", []) for role in each.values()]
                named = tuple(name for role in roles for name in role)
                found.append(Endpoint(service, method.upper(), path, named))
    return found


def ask(paybus: Paybus, endpoint: Endpoint, token: str | None) -> int:
    path = re.sub(r"\{[^}]+\}", "x", endpoint.path)
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    url = f"{paybus.layout.url(f'{endpoint.service}-api')}{path}"
    return paybus.http.request(endpoint.method, url, headers=headers).status_code


def test_every_endpoint_says_which_role_it_asks_for(endpoints: list[Endpoint]) -> None:
    assert len(endpoints) > 100
    assert {each.service for each in endpoints} == {*SERVICES}
    assert [str(each) for each in endpoints if not set(each.roles) & set(_ROLES)] == []


def test_no_endpoint_takes_a_token_that_is_not_good(
    paybus: Paybus, keys: DevKeys, endpoints: list[Endpoint]
) -> None:
    for what, token in {**forged(keys), "none at all": None}.items():
        wrong = [str(each) for each in endpoints if ask(paybus, each, token) != 401]
        assert wrong == [], what


def test_no_endpoint_takes_a_role_below_its_own(paybus: Paybus, endpoints: list[Endpoint]) -> None:
    for place, role in enumerate(_ROLES):
        token = paybus.token(role)
        for each in endpoints:
            least = max(_ROLES.index(name) for name in each.roles)
            status = ask(paybus, each, token)
            if least > place:
                assert status == 403, f"{each} as {role}: {status}"
            else:
                assert status not in {401, 500}, f"{each} as {role}: {status}"
