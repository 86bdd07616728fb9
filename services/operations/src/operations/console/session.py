"""Console sessions. The session is the caller's own token, in a cookie that scripts cannot read: it
ends with the token, and every replica accepts it. Only sign-outs are stored, in the cache: with
`REDIS_URL`, for all replicas."""

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
_LARGEST_FORM = 500_000  # ten thousand selected dead letters


@dataclass(frozen=True)
class ConsoleSession:
    """`csrf` is the secret in the forms of this session, which other sites cannot know. `operating`
    is whether the visitor's tenant is the one that operates Paybus."""

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
        """Raise `Forbidden` unless the caller has `role` or a higher one."""
        if self.caller.role < role:
            raise Forbidden(f"this needs the role `{role.name.lower()}` or a higher one")


@dataclass(frozen=True)
class ConsoleCookies:
    """`are_secure` is false only for a console without TLS on a developer's machine."""

    are_secure: bool


async def visit(request: Request, token: str) -> ConsoleSession:
    """Authenticate a token. Raises `Unauthenticated`, also for a session that was ended."""
    authenticator = part_of(request, Authenticator)
    caller = await authenticator.authenticate(f"Bearer {token}")
    cache = part_of(request, Cache)
    if await cache.get(caller.tenant, _digest(token)):
        raise Unauthenticated("this session has ended: sign in again, with another token")
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
    """End the session: no copy of its token is accepted by the console any more."""
    cache = part_of(request, Cache)
    key = _digest(visitor.token)
    await cache.set(visitor.caller.tenant, key, True, seconds=LONGEST_LIFE.total_seconds())


def _digest(token: str) -> str:
    # Hash only the signed part: a signature has several valid encodings, RFC 4648, 3.5.
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
    """Parse a form. Raises `Invalid` if the body is not a form, `TooLarge` if it is too large, and
    `Forbidden` if another site sent it."""
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
        raise Invalid("the request is not a form") from error


def check(visitor: ConsoleSession, form: Form) -> None:
    """Raise `Forbidden` unless the form was issued to this session."""
    if not hmac.compare_digest(first(form, "csrf").encode(), visitor.csrf.encode()):
        raise Forbidden("this form belongs to another session: load the page again")


def first(form: Form, name: str) -> str:
    """Return a field's value; empty if the field is missing."""
    return form.get(name, [""])[0].strip()
