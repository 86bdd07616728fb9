"""`make demo` as users run it, small."""

from __future__ import annotations

import subprocess
import sys


def test_the_demo_provisions_every_subscription_and_exits_0() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "devstack", "demo", "--subscriptions", "15"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "MISSING" not in ended.stdout
    assert "15 subscriptions" in ended.stdout
