"""The endpoints by path, as the endpoints file currently defines them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.background import PeriodicTask
from common.clients.accounts_file import DEFAULT, AccountsInvalid, options_of
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from common.settings import secrets_of
from webhook_gateway import metrics
from webhook_gateway.providers.base import Provider
from webhook_gateway.providers.endpoint import Endpoint
from webhook_gateway.providers.endpoint import read as read_endpoints
from webhook_gateway.providers.registry import PROVIDERS

log = get_logger(__name__)

_LOOP_SECONDS = 2.0
PREFIX = "/webhooks/"


class EndpointRegistry(PeriodicTask):
    """Reloads the file when its content changes; an invalid file changes nothing.

    Content is compared rather than modification times, because Kubernetes replaces a mounted secret
    by switching a link.
    """

    def __init__(self, path: Path, redact: Redactor) -> None:
        """Read the file. Raises `AccountsInvalid`."""
        self._path = path
        self._redact = redact
        super().__init__(_LOOP_SECONDS)
        self._seen = _content(path)
        self._providers: Mapping[str, Provider] = {}
        self.not_served: list[str] = []  # endpoints that lack a required secret
        self._providers = self._read()
        self.fault: str | None = None

    def find(self, path: str) -> Provider | None:
        """Return the endpoint at a URL's path: `/webhooks/stripe`, `/webhooks/stripe/paris`, or one
        of its own `paths`."""
        return self._providers.get(path)

    def all(self) -> list[Provider]:
        return list({id(each): each for each in self._providers.values()}.values())

    async def step(self) -> bool:
        content = _content(self._path)
        if content != self._seen:
            self._seen = content
            self._reload()
        return False

    def _reload(self) -> None:
        try:
            self._providers = self._read()
        except AccountsInvalid as error:
            self.fault = str(error)
            log.error("endpoints_file_rejected", error=self.fault)
        else:
            self.fault = None
            log.info(
                "endpoints_file_loaded", endpoints=sorted(each.path for each in self._endpoints())
            )
        metrics.endpoints_fault.set(self.fault is not None)

    def _endpoints(self) -> list[Endpoint]:
        return [provider.endpoint for provider in self.all()]

    def _read(self) -> Mapping[str, Provider]:
        found: dict[str, Provider] = {}
        not_served: list[str] = []
        before = {each.endpoint.path: each for each in self.all()}
        for endpoint in read_endpoints(self._path):
            kept = before.get(endpoint.path)
            # An unchanged endpoint retains its tokens, keys and budgets.
            provider = kept if kept is not None and kept.endpoint == endpoint else make(endpoint)
            self._redact.learn([*provider.secrets, *secrets_of(provider.options)])
            if provider.needs_secret and not provider.secrets:
                log.warning("endpoint_without_secret", endpoint=endpoint.path)
                not_served.append(endpoint.path)
                continue
            paths = paths_of(endpoint)
            if taken := sorted({path for path in paths if path in found}):
                other = found[taken[0]].endpoint.path
                raise AccountsInvalid(
                    f"{endpoint.path}: the path {taken[0]} is that of {other}, too"
                )
            found |= dict.fromkeys(paths, provider)
        self.not_served = not_served
        return found


def paths_of(endpoint: Endpoint) -> list[str]:
    """Return the paths of the endpoint's URLs."""
    named = [f"{PREFIX}{endpoint.path}", *endpoint.paths]
    return [f"{PREFIX}{endpoint.provider}", *named] if endpoint.name == DEFAULT else named


def make(endpoint: Endpoint) -> Provider:
    """Create the endpoint's provider. Raises `AccountsInvalid`."""
    kind = PROVIDERS.get(endpoint.provider)
    if kind is None:
        raise AccountsInvalid(
            f"{endpoint.provider} is not a provider; these are: {', '.join(sorted(PROVIDERS))}"
        )
    return kind(endpoint, options_of(endpoint, kind.options_model))


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
