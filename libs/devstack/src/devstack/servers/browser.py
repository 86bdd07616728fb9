"""A browser for the tests of the console."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from devstack.addresses import DevstackError
from devstack.servers import debian


def chromium() -> Path:
    """Return PAYBUS_CHROMIUM, this machine's browser, or Debian's, installed if necessary. Raises
    `DevstackError`."""
    if chosen := os.environ.get("PAYBUS_CHROMIUM"):
        return Path(chosen)
    if (found := _find()) is None:
        debian.install(
            "chromium", otherwise="Chromium is missing: install it, or name it by PAYBUS_CHROMIUM."
        )
        found = _find()
    if found is None:
        raise DevstackError("chromium was installed, but it was not found.")
    return found


def _find() -> Path | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((Path(path) for name in names if (path := shutil.which(name))), None)
