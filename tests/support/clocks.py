"""Processes with a different system time, by Debian's libfaketime."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from devstack.addresses import DevstackError
from devstack.servers import debian


def ahead(by: str) -> Mapping[str, str]:
    """Return the environment of a process whose clock is ahead by, for example, `+20s`. Skips the
    test if libfaketime is missing and cannot be installed."""
    if (library := _library()) is None:
        with suppress(DevstackError):
            debian.install("libfaketime", otherwise="it is Debian's")
        library = _library()
    if library is None:
        pytest.skip("needs Debian's libfaketime")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": by,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _library() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
