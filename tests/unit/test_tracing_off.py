"""Without an exporter nothing is traced, and the SDK is not loaded."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from common import tracing
from common.contracts.event import root
from common.contracts.jobs import JobDue

stop = tracing.configure("orders", "worker")
with tracing.span("work") as span:
    data = JobDue(job="rates", run_id="1")
    event = root(id="1", type="orders.job_due", source="/x", subject="x", tenant="t", data=data)
stop()
loaded = any(name.startswith("opentelemetry") for name in sys.modules)
print(span, event.traceparent, loaded)
"""


def test_nothing_is_traced_and_nothing_is_loaded_without_an_exporter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.split() == ["None", "None", "False"]
