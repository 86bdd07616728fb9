"""Processes with a different system time, by Debian's libfaketime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from devstack.addresses import DevstackError
from devstack.servers import debian


def ahead(by: str) -> Mapping[str, str]:
    """Return the environment of a process whose clock is ahead by, for example, `+20s`. Raises
    `DevstackError` if libfaketime is missing and cannot be installed."""
    if _library() is None:
        debian.install("libfaketime", otherwise="it is Debian's")
    library = _library()
    if library is None:
        raise DevstackError("libfaketime can't be had here: it is Debian's")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": by,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _library() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
