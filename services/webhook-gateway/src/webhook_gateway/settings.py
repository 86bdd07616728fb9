"""The gateway's settings. Secrets of providers are in the endpoints file (endpoints.py)."""

from pydantic import Field, FilePath

from common.settings import BrokerSettings, HttpSettings


class Settings(HttpSettings, BrokerSettings):
    endpoints_file: FilePath = Field(description="whose webhooks are taken, as TOML")
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
