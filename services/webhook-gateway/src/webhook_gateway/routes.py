"""Which provider answers for which path, as the endpoints file says now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from common.accounts import DEFAULT, AccountsInvalid, options_of
from common.logs import get_logger
from common.redaction import Redactor
from common.settings import secrets_of
from webhook_gateway import endpoints, metrics
from webhook_gateway.endpoints import Endpoint
from webhook_gateway.providers import Provider
from webhook_gateway.providers.registry import PROVIDERS

log = get_logger(__name__)

_LOOK_SECONDS = 2.0


class Routes:
    """Reads the file anew when its content changes; what can't be used leaves the old one in force.

    Content rather than modification time: a mounted Kubernetes secret is replaced by a link.
    """

    def __init__(self, path: Path, redact: Redactor) -> None:
        """Raises `AccountsInvalid`."""
        self._path = path
        self._redact = redact
        self._stop = asyncio.Event()
        self._seen = _content(path)
        self._providers: Mapping[str, Provider] = {}
        self.not_served: list[str] = []  # for want of a secret
        self._providers = self._read()
        self.fault: str | None = None

    def find(self, path: str) -> Provider | None:
        """By `stripe` or `stripe/paris`."""
        return self._providers.get(path)

    def all(self) -> list[Provider]:
        return list({id(each): each for each in self._providers.values()}.values())

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK_SECONDS)
            content = _content(self._path)
            if content != self._seen:
                self._seen = content
                self._reload()

    def _reload(self) -> None:
        try:
            self._providers = self._read()
        except AccountsInvalid as error:
            self.fault = str(error)
            log.error("the endpoints file is not used, the one before it stays", error=self.fault)
        else:
            self.fault = None
            log.info("endpoints read", endpoints=sorted(each.path for each in self._endpoints()))
        metrics.endpoints_fault.set(self.fault is not None)

    def _endpoints(self) -> list[Endpoint]:
        return [provider.endpoint for provider in self.all()]

    def _read(self) -> Mapping[str, Provider]:
        found: dict[str, Provider] = {}
        not_served: list[str] = []
        before = {each.endpoint.path: each for each in self.all()}
        for endpoint in endpoints.read(self._path):
            kept = before.get(endpoint.path)
            # One that did not change keeps its tokens, keys and budgets.
            provider = kept if kept is not None and kept.endpoint == endpoint else make(endpoint)
            self._redact.learn([*provider.secrets, *secrets_of(provider.options)])
            if provider.needs_secret and not provider.secrets:
                log.warning("not served: it has no secret", endpoint=endpoint.path)
                not_served.append(endpoint.path)
                continue
            found[endpoint.path] = provider
            if endpoint.name == DEFAULT:
                found[endpoint.provider] = provider
        self.not_served = not_served
        return found


def make(endpoint: Endpoint) -> Provider:
    """Raises `AccountsInvalid`."""
    kind = PROVIDERS.get(endpoint.provider)
    if kind is None:
        raise AccountsInvalid(
            f"no provider is called {endpoint.provider}; there are {', '.join(sorted(PROVIDERS))}"
        )
    return kind(endpoint, options_of(endpoint, kind.options_model))


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
