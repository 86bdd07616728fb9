"""Templates, and the headers of every page."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from common.errors import PaybusError, Unauthenticated
from common.http.problems import problem_response
from operations.console.session import ConsoleSession

# Allow only our own style sheet and images, forms that post to us, and no framing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _moment(value: datetime | str | None) -> str:
    if value is None:
        return ""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


_templates = Environment(
    loader=PackageLoader("operations.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"moment": _moment, "pretty": _pretty}


def page(
    name: str, visitor: ConsoleSession | None, *, status: int = 200, **values: Any
) -> HTMLResponse:
    text = _templates.get_template(name).render(visitor=visitor, **{"refresh": None} | values)
    return HTMLResponse(text, status, headers=_HEADERS)


def go_to(path: str) -> RedirectResponse:
    """Redirect after a form was processed, so that reloading the page does not send it again."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER, headers=_HEADERS)


class Route(APIRoute):
    """Render errors as pages; redirect visitors who are not signed in to the login page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_pages(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthenticated as error:
                if request.method == "GET" and not request.url.path.endswith("/login"):
                    return go_to("/console/login")
                return page("login.html", None, status=HTTPStatus.UNAUTHORIZED, error=str(error))
            except PaybusError as error:
                status = problem_response(error).status_code
                return page("error.html", None, status=status, error=str(error))

        return with_pages


def given(**values: Any) -> dict[str, Any]:
    """Return only the values that are neither None nor empty."""
    return {name: value for name, value in values.items() if value not in {None, ""}}
