"""Money in messages: an integer number of a currency's minor units, never a float.

XAF, XOF and JPY have no minor unit (ISO 4217), so 500 means 500 francs; for EUR it means 5.00.
"""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

MinorUnits = Annotated[int, Field(ge=0, le=2**53 - 1, strict=True)]
SignedMinorUnits = Annotated[int, Field(ge=1 - 2**53, le=2**53 - 1, strict=True)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]

_MOST_DIGITS = 16  # as many as `MinorUnits` allows

# ISO 4217, as of 2024: currencies whose minor unit is not a hundredth.
_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THOUSANDTHS = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENTS = dict.fromkeys(_NONE.split(), 0) | dict.fromkeys(_THOUSANDTHS.split(), 3)


def exponent(currency: str) -> int:
    """Return the number of decimal places of a currency: 2 for EUR, 0 for XAF."""
    return _EXPONENTS.get(currency, 2)


def minor_units(amount: Decimal | str | int, currency: str) -> int:
    """Convert major units, as some providers send them, to minor units: 15.5 EUR is 1550.

    Raise `ValueError` for an invalid amount of this currency: 0.5 XAF, NaN, 1e999999.
    """
    scaled = Decimal(amount).scaleb(exponent(currency))
    # Writing out the digits of 1e999999 would take half a minute.
    if not scaled.is_finite() or scaled.adjusted() >= _MOST_DIGITS:
        raise ValueError(f"not an amount in {currency}")
    if scaled != scaled.to_integral_value():
        raise ValueError(f"not an amount in {currency}")
    return int(scaled)


def major_units(amount: int, currency: str) -> Decimal:
    """Convert minor units to major units: 1550 EUR is 15.50."""
    return Decimal(amount).scaleb(-exponent(currency))
