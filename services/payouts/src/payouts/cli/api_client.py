"""API client of `paybus-payouts`: its address and token."""

from __future__ import annotations

from pydantic import HttpUrl, SecretStr

from common.cli.toolkit import Api
from common.settings import Settings, load_or_exit


class ApiAddress(Settings):
    payouts_url: HttpUrl
    paybus_token: SecretStr


def _where() -> tuple[str, SecretStr]:
    settings = load_or_exit(ApiAddress)
    return str(settings.payouts_url), settings.paybus_token


API = Api(_where, prefix="/v1")
call, listed = API.call, API.listed
