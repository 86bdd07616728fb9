"""A line that can't be written is lost, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROCESS = """
import asyncio, os
from common.observability.logging import configure, get_logger
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard

configure(service="s", role="r", level="INFO", redact=Redactor())
log = get_logger("test")

async def call():
    async with CallGuard("a provider", label="a", max_concurrency=1, quota=None).call():
        log.info("within")
    try:
        int("x")
    except ValueError:
        log.exception("failed")

asyncio.run(call())
os._exit(42)
"""


def test_a_call_succeeds_although_the_disk_of_the_log_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", _PROCESS],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (42, "")
