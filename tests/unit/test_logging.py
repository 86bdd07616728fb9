"""Log lines of values that are too long."""

from __future__ import annotations

import subprocess
import sys

_LOGS = """
from common.observability.logging import configure, get_logger
from common.observability.redaction import Redactor
configure(service="a", role="b", level="INFO", redact=Redactor())
try:
    raise ValueError("x" * 100_000 + " the end")
except ValueError:
    get_logger("x").exception("failed", value="y" * 100_000 + " the end")
"""


def test_of_a_traceback_the_end_is_logged_and_of_other_values_the_beginning() -> None:
    done = subprocess.run([sys.executable, "-c", _LOGS], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert len(line) < 70_000
    assert line.count("the end") == 1, "the traceback's"
    assert "xxx the end" in line
