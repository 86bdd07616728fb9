"""A client for the console's pages and forms."""

from __future__ import annotations

import re

import httpx
from httpx import Response

from support.paybus import Paybus


class Browser:
    """A browser session, signed in with a token unless `role` is None."""

    def __init__(self, paybus: Paybus, *, role: str | None = "operator", tenant: str = "default"):
        self.http = httpx.Client(base_url=paybus.layout.url("operations-api"))
        if role is not None:
            token = paybus.token(role, tenant=tenant)
            answer = self.post("/login", token=token)
            assert (answer.status_code, answer.headers["location"]) == (303, "/console")

    def get(self, path: str) -> Response:
        return self.http.get(f"/console{path}")

    def post(self, path: str, **fields: str) -> Response:
        return self.http.post(f"/console{path}", data=fields)

    def see(self, path: str, status: int = 200) -> str:
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    @property
    def csrf(self) -> str:
        (found, *_) = re.findall(r'name="csrf" value="(\w+)"', self.see("/groups"))
        return str(found)

    def send(self, path: str, **fields: str) -> Response:
        return self.post(path, csrf=self.csrf, **fields)
