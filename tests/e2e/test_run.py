"""`make run` as users run it: it prints how to begin, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from devstack.processes.stack import PAYBUS
from support.waiting import until


@pytest.mark.timeout(300)
@pytest.mark.skipif((PAYBUS / "run" / "addresses.json").exists(), reason="`make run` is on here")
def test_run_prints_addresses_takes_a_webhook_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "devstack", "run"], stdout=file, stderr=file
        )
    try:
        until(lambda: "Ctrl-C stops" in output.read_text(), what="it runs", seconds=150)
        text = output.read_text()
        gateway = re.search(r"webhook-gateway +(http://127\.0\.0\.1:\d+)", text)
        assert gateway is not None
        assert "make webhook" in text
        assert httpx.get(f"{gateway[1]}/readyz").status_code == 200
        sent = subprocess.run(
            [sys.executable, "-m", "devstack", "webhook"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{gateway[1]}/webhooks/stripe: 200" in sent.stdout
        children = _descendants(running.pid)
        assert len(children) >= 7
    finally:
        running.send_signal(signal.SIGINT)
        status = running.wait(60)
    assert status == 0
    until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in children),
        what="no process is left",
    )


def _descendants(parent: int) -> list[int]:
    listing = subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True)
    pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
    found, frontier = [], [parent]
    while frontier:
        above = frontier.pop()
        below = [pid for pid, ppid in pairs if ppid == above and pid != os.getpid()]
        found += below
        frontier += below
    return found
