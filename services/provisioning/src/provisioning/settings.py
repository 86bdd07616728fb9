"""The provisioning service's settings, per role."""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from common import settings
from common.settings import DatabaseSettings, HttpSettings, ScheduleSettings


def _header_value(token: SecretStr) -> SecretStr:
    value = token.get_secret_value()
    if not value or not value.isascii() or not value.isprintable():
        raise ValueError("must be printable ASCII and not empty, because it is sent in a header")
    return token


class BackendSettings(HttpSettings, DatabaseSettings):
    backend_url: HttpUrl = Field(description="the backend API that stores organizations")
    backend_token: Annotated[SecretStr, AfterValidator(_header_value)] = Field(
        description="sent to it as a bearer token"
    )
    backend_integration_enabled: bool = Field(
        default=True,
        description="false parks all provisioning with the status `parked`; true releases it",
    )
    backend_look_first: bool = Field(
        default=False,
        description="true queries the backend API for an organization before creating it, "
        "whatever the database records: for use after a restore",
    )
    backend_timeout_seconds: float = Field(
        default=10, gt=0, le=300, description="the timeout of all calls of one operation together"
    )
    backend_circuit_failures: int = Field(
        default=50,
        ge=1,
        description="the number of consecutive failures after which nothing is sent for a while: "
        "requests wait",
    )
    backend_circuit_seconds: float = Field(
        default=30, gt=0, description="how long nothing is sent then"
    )


class ApiSettings(BackendSettings, settings.ApiSettings):
    pass


class WorkerSettings(BackendSettings, ScheduleSettings, settings.WorkerSettings):
    concurrency: int = Field(
        default=16, ge=1, le=500, description="the maximum number of concurrent operations"
    )
