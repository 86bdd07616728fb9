"""The gateway's settings."""

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from common.settings import BrokerSettings, CommaSeparated, HttpSettings, split_commas


class Settings(HttpSettings, BrokerSettings):
    stripe_webhook_secrets: Annotated[
        list[SecretStr], CommaSeparated, BeforeValidator(split_commas)
    ] = Field(
        min_length=1,
        description="whsec_... of Stripe's webhook endpoint; several, separated by commas, while "
        "one is being rotated",
    )
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
