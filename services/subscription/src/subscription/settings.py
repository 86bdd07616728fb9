"""The subscription service's settings, per role."""

from pydantic import Field

from common import settings
from common.settings import AuthSettings, DatabaseSettings, HttpSettings


class ApiSettings(HttpSettings, DatabaseSettings, AuthSettings):
    pass


class WorkerSettings(settings.WorkerSettings):
    consumer_batch: int = Field(
        default=250, ge=1, le=1000, description="messages in one transaction, at the most"
    )
