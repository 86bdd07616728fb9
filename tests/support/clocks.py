"""Processes with a different system time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from devstack import clocks
from devstack.addresses import DevstackError


def ahead(by: str) -> Mapping[str, str]:
    """Return the environment of a process whose clock is ahead by, for example, `+20s`. Skips the
    test where that is not possible."""
    try:
        return clocks.ahead(by)
    except DevstackError as error:
        pytest.skip(str(error))
