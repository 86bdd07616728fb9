"""Return URLs: where a provider sends the browser when it is done."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

from pydantic import AfterValidator, HttpUrl

from common.errors import Invalid


def _checked(url: HttpUrl) -> HttpUrl:
    host = (url.host or "").strip("[]")
    address: IPv4Address | IPv6Address | None = None
    with suppress(ValueError):
        address = ip_address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return url  # a developer's own machine
    if url.scheme != "https":
        raise ValueError("must begin with https://")
    if address is not None and not address.is_global:
        raise ValueError("must be an address of the public internet")
    return url


def check_return_url(url: HttpUrl | None) -> None:
    """Raise `Invalid` unless the URL is a public HTTPS address or this machine's own."""
    try:
        if url is not None:
            _checked(url)
    except ValueError as error:
        raise Invalid(f"return_url {error}") from None


ReturnUrl = Annotated[HttpUrl, AfterValidator(_checked)]
