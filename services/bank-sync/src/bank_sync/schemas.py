"""Request bodies."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from common.clients.accounts_file import DEFAULT
from common.http.requests import RequestModel
from common.http.return_urls import ReturnUrl

Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
User = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
ClientName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class NewLinkToken(RequestModel):
    """Request for a link token for Plaid's Link in the user's browser. `user` is the tenant's id of
    the user: no e-mail address, no phone number."""

    user: User
    client: ClientName = DEFAULT
    language: str = Field(default="en", pattern=r"^[a-z]{2}$")
    countries: list[Country] = Field(default=["US"], min_length=1, max_length=30)
    redirect_uri: ReturnUrl | None = None


class UpdateLinkToken(RequestModel):
    """Request for a link token for Link's update mode, which repairs an item; with
    `choose_accounts` the user may share further accounts."""

    language: str = Field(default="en", pattern=r"^[a-z]{2}$")
    countries: list[Country] = Field(default=["US"], min_length=1, max_length=30)
    redirect_uri: ReturnUrl | None = None
    choose_accounts: bool = False


class NewItem(RequestModel):
    """Request to link an item. `public_token` is the token from Link; it is valid for 30 minutes
    and for one exchange."""

    public_token: SecretStr = Field(min_length=1, max_length=500)
    user: User
    client: ClientName = DEFAULT
    countries: list[Country] = Field(default=["US"], min_length=1, max_length=30)
