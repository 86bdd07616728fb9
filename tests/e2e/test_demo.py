"""A small `make demo`, as users run it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.timeout(600)
def test_the_demo_serves_everyone_who_paid_and_nobody_else() -> None:
    command = [sys.executable, "-m", "devstack", "demo", "--subscriptions", "15"]
    ended = subprocess.run(
        [*command, "--checkouts", "20"], capture_output=True, text=True, timeout=570, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "MISSING" not in ended.stdout
    assert "TOO MANY" not in ended.stdout
    assert "Stripe: 15 subscriptions" in ended.stdout
    (together,) = re.findall(r"together\W+(.*)", ended.stdout)
    started, paid, dropped, _, forged, active, healed = map(int, re.findall(r"\d+", together))
    assert (started, paid, forged, active) == (20, 14, 2, 14)
    assert 0 < healed <= dropped
    _, five = ended.stdout.split("the five systems that Paybus replaces")
    assert len(re.findall(r"│ ok", five)) == 5
