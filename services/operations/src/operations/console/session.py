"""Who is signed in. The session is the caller's own token, in a cookie that no script can read: it
ends when the token does, and every replica knows it. Only who signed out is written down, in the
cache: with `REDIS_URL` for all replicas."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends, Request, Response

from common.errors import Forbidden, Invalid, TooLarge, Unauthenticated
from common.http.auth import LONGEST_LIFE, Authenticator, Caller, Role
from common.http.middleware import MOST_VALUES
from common.http.resources import part_of
from common.resilience.cache import Cache
from operations.service import OperatorService

COOKIE = "paybus_console"
_LARGEST_FORM = 500_000  # ten thousand chosen letters


@dataclass(frozen=True)
class ConsoleSession:
    """`csrf` is what forms of this session carry: others can't know it. `operating` is whether the
    visitor's tenant is the one that operates Paybus."""

    caller: Caller
    token: str
    csrf: str
    operating: bool

    @property
    def header(self) -> str:
        return f"Bearer {self.token}"

    def may(self, role: str) -> bool:
        return self.caller.role >= Role[role.upper()]

    def require(self, role: Role) -> None:
        """Raises `Forbidden`."""
        if self.caller.role < role:
            raise Forbidden(f"this needs the role `{role.name.lower()}` or a higher one")


@dataclass(frozen=True)
class ConsoleCookies:
    """`are_secure` is false only for a console without TLS, on a developer's machine."""

    are_secure: bool


async def visit(request: Request, token: str) -> ConsoleSession:
    """Raises `Unauthenticated`."""
    authenticator = part_of(request, Authenticator)
    caller = await authenticator.authenticate(f"Bearer {token}")
    cache = part_of(request, Cache)
    if await cache.get(caller.tenant, _digest(token)):
        raise Unauthenticated("this session was ended: sign in again, with another token")
    csrf = hashlib.sha256(b"paybus console form" + token.encode()).hexdigest()
    return ConsoleSession(
        caller, token, csrf, caller.tenant == part_of(request, OperatorService).tenant
    )


async def _visitor(request: Request) -> ConsoleSession:
    token = request.cookies.get(COOKIE)
    if not token:
        raise Unauthenticated("sign in first")
    return await visit(request, token)


async def end(request: Request, visitor: ConsoleSession) -> None:
    """The token is of no more use here, whoever has a copy of it."""
    cache = part_of(request, Cache)
    key = _digest(visitor.token)
    await cache.set(visitor.caller.tenant, key, True, seconds=LONGEST_LIFE.total_seconds())


def _digest(token: str) -> str:
    # Of what is signed: a signature may be written in several ways, RFC 4648, 3.5.
    signed = token.rpartition(".")[0]
    return hashlib.sha256(signed.encode()).hexdigest()


SignedIn = Annotated[ConsoleSession, Depends(_visitor)]


def sign_in(response: Response, token: str, *, secure: bool) -> None:
    response.set_cookie(
        COOKIE, token, path="/console", httponly=True, samesite="strict", secure=secure
    )


def sign_out(response: Response, *, secure: bool) -> None:
    response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict", secure=secure)


Form = dict[str, list[str]]


async def read_form(request: Request) -> Form:
    """Raises `Invalid` for what is no form, `Forbidden` for one that another site sent."""
    origin = request.headers.get("origin")
    try:
        ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        ours = False
    if not ours:
        raise Forbidden("this form comes from another site")
    body = await request.body()
    if len(body) > _LARGEST_FORM:
        raise TooLarge("the form is too large")
    try:
        return parse_qs(body.decode(), keep_blank_values=False, max_num_fields=MOST_VALUES)
    except ValueError as error:
        raise Invalid("this is no form") from error


def check(visitor: ConsoleSession, form: Form) -> None:
    """Raises `Forbidden` unless the form is one that this session was shown."""
    if not hmac.compare_digest(first(form, "csrf").encode(), visitor.csrf.encode()):
        raise Forbidden("this form is not of your session: load the page again")


def first(form: Form, name: str) -> str:
    """A field's value; empty when it was left out."""
    return form.get(name, [""])[0].strip()
