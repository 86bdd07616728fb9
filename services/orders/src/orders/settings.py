"""Settings of the orders service, per role."""

from pydantic import Field, HttpUrl

from common import settings
from common.security.encryption import EncryptionSettings
from common.settings import ScheduleSettings

ECB = HttpUrl("https://www.ecb.europa.eu/stats/eurofxref/eurofxref-daily.xml")


class ApiSettings(settings.ApiSettings, EncryptionSettings):
    subscription_url: HttpUrl | None = Field(
        default=None, description="the subscription service's API, where checkouts are started"
    )
    provider_timeout_seconds: float = Field(
        default=20, ge=0.1, le=60, description="the timeout for starting a checkout"
    )


class WorkerSettings(settings.WorkerSettings, ScheduleSettings):
    orders_interval_seconds: float = Field(
        default=3600, ge=1, description="the interval of the search for due orders"
    )
    rates_ecb_url: HttpUrl | None = Field(
        default=ECB, description="the European Central Bank's daily reference rates, XML"
    )
    rates_json_url: HttpUrl | None = Field(
        default=None,
        description="the URL of a source of further rates, as "
        '{"base": "EUR", "date": "2026-11-20", "rates": {"USD": 1.08}}',
    )
    rates_timeout_seconds: float = Field(
        default=20, ge=0.1, le=300, description="the timeout for reading a rate source"
    )
