"""Webhook endpoints, by the API: https://docs.stripe.com/api/webhook_endpoints. Events are sent to
them."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from localstripe.resources import List, StripeObject, store
from localstripe.server import get_post_data, json_response
from localstripe.webhooks import register_webhook

_SECRET = "whsec_of_the_sandbox"  # noqa: S105 - protects nothing


class WebhookEndpoint(StripeObject):  # type: ignore[misc]
    """The object of https://docs.stripe.com/api/webhook_endpoints/object"""

    object = "webhook_endpoint"
    _id_prefix = "we_"

    def __init__(self, url: str, enabled_events: list[str]) -> None:
        super().__init__()
        self.api_version: str | None = None
        self.application: str | None = None
        self.description: str | None = None
        self.enabled_events = enabled_events
        self.metadata: dict[str, str] = {}
        self.status = "enabled"
        self.url = url

    def _register(self) -> None:
        events = None if "*" in self.enabled_events else self.enabled_events
        register_webhook(self.id, self.url, _SECRET, events)


def install(app: web.Application) -> None:
    async def create(request: web.Request) -> Any:
        wanted = await get_post_data(request)
        made = WebhookEndpoint(wanted["url"], wanted["enabled_events"])
        made._register()
        # Only this response has the secret.
        return json_response(made._export() | {"secret": _SECRET})

    async def list_(_: web.Request) -> Any:
        found = List("/v1/webhook_endpoints", limit=100)
        found._list = [each for each in store.values() if isinstance(each, WebhookEndpoint)]
        return json_response(found._export())

    async def update(request: web.Request) -> Any:
        wanted = await get_post_data(request)
        found = WebhookEndpoint._api_retrieve(request.match_info["id"])
        for name in ("enabled_events", "status"):
            setattr(found, name, wanted.get(name, getattr(found, name)))
        found._register()
        return json_response(found._export())

    app.router.add_post("/v1/webhook_endpoints", create)
    app.router.add_get("/v1/webhook_endpoints", list_)
    app.router.add_post("/v1/webhook_endpoints/{id}", update)
