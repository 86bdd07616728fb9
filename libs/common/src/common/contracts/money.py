"""Money on the wire: an integer count of a currency's minor unit, never a float.

XAF, XOF and JPY have no minor unit (ISO 4217), so 500 means 500 francs; for EUR it means 5.00.
"""

from typing import Annotated

from pydantic import Field

MinorUnits = Annotated[int, Field(ge=0, le=2**53 - 1, strict=True)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
