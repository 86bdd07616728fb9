"""All providers by name, the first segment of their webhooks' path."""

from collections.abc import Mapping
from typing import Final

from webhook_gateway.providers.base import Provider
from webhook_gateway.providers.dwolla import Dwolla
from webhook_gateway.providers.fapshi import Fapshi
from webhook_gateway.providers.flutterwave import Flutterwave
from webhook_gateway.providers.mtn_momo import MtnMomo
from webhook_gateway.providers.orange_money import OrangeMoney
from webhook_gateway.providers.plaid import Plaid
from webhook_gateway.providers.square import Square
from webhook_gateway.providers.stripe import Stripe

PROVIDERS: Final[Mapping[str, type[Provider]]] = {
    each.name: each
    for each in (
        Stripe,
        Plaid,
        Fapshi,
        MtnMomo,
        OrangeMoney,
        Flutterwave,
        Square,
        Dwolla,
    )
}
