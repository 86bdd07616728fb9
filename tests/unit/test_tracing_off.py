"""Without an exporter nothing is traced, and the SDK is not loaded."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from common.observability import tracing
from common.contracts.jobs import RunJob
from common.messaging.events import new_event

stop = tracing.configure("orders", "worker")
with tracing.span("work") as span:
    data = RunJob(job="rates", run_id="1")
    event = new_event(
        id="1", type="job.run.orders", source="/x", subject="x", tenant="t", data=data
    )
stop()
loaded = any(name.startswith("opentelemetry") for name in sys.modules)
print(span, event.traceparent, loaded)
"""


def test_nothing_is_traced_and_nothing_is_loaded_without_an_exporter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.split() == ["None", "None", "False"]
