"""Where `paybus-payouts` finds the API."""

from __future__ import annotations

from pydantic import HttpUrl, SecretStr

from common.settings import Settings, load
from common.shell import Api


class ApiAddress(Settings):
    payouts_url: HttpUrl
    paybus_token: SecretStr


def _where() -> tuple[str, SecretStr]:
    settings = load(ApiAddress)
    return str(settings.payouts_url), settings.paybus_token


API = Api(_where, prefix="/api/v1")
call, listed = API.call, API.listed
