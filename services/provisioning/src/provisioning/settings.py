"""The provisioning service's settings, per role."""

from pydantic import Field, HttpUrl, SecretStr

from common.settings import AuthSettings, BrokerSettings, DatabaseSettings, HttpSettings


class BackendSettings(HttpSettings, DatabaseSettings):
    backend_url: HttpUrl = Field(description="the back end that keeps organizations")
    backend_token: SecretStr = Field(description="sent to it as a bearer token")
    backend_integration_enabled: bool = Field(
        default=True, description="false parks all provisioning, visibly; true releases it"
    )
    backend_timeout_seconds: float = Field(
        default=10, gt=0, le=300, description="for all calls of one operation together"
    )


class ApiSettings(BackendSettings, AuthSettings):
    pass


class WorkerSettings(BackendSettings, BrokerSettings):
    concurrency: int = Field(default=16, ge=1, le=500, description="operations under way at once")
    tenant: str = Field(default="default", description="the tenant that scheduled jobs run for")
