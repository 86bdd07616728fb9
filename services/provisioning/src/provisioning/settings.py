"""The provisioning service's settings, per role."""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from common import settings
from common.settings import DatabaseSettings, HttpSettings, ScheduleSettings


def _header_value(token: SecretStr) -> SecretStr:
    value = token.get_secret_value()
    if not value or not value.isascii() or not value.isprintable():
        raise ValueError("must be printable ASCII and not empty, for it goes into a header")
    return token


class BackendSettings(HttpSettings, DatabaseSettings):
    backend_url: HttpUrl = Field(description="the back end that keeps organizations")
    backend_token: Annotated[SecretStr, AfterValidator(_header_value)] = Field(
        description="sent to it as a bearer token"
    )
    backend_integration_enabled: bool = Field(
        default=True, description="false parks all provisioning, visibly; true releases it"
    )
    backend_look_first: bool = Field(
        default=False,
        description="true asks for an organization before it is created, whatever is known of it: "
        "after a restore",
    )
    backend_timeout_seconds: float = Field(
        default=10, gt=0, le=300, description="for all calls of one operation together"
    )
    backend_circuit_failures: int = Field(
        default=50,
        ge=1,
        description="so many failures in a row, and nothing is sent for a while: requests wait",
    )
    backend_circuit_seconds: float = Field(default=30, gt=0, description="for how long")


class ApiSettings(BackendSettings, settings.ApiSettings):
    pass


class WorkerSettings(BackendSettings, ScheduleSettings, settings.WorkerSettings):
    concurrency: int = Field(default=16, ge=1, le=500, description="operations under way at once")
