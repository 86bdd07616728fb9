"""Every metric follows the naming and unit conventions, and its labels have few values."""

from __future__ import annotations

import importlib

import pytest
from deploy.observability.build import MODULES
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

METRICS: list[MetricWrapperBase] = [
    each
    for module in MODULES
    for each in vars(importlib.import_module(module)).values()
    if isinstance(each, MetricWrapperBase)
]
# Names of queues, jobs, providers, states: values from the code or an accounts file, not from
# input.
BOUNDED = {
    "attempt", "cache", "change", "exchange", "health", "job", "kind", "operation", "outcome",
    "provider", "purpose", "queue", "setting", "source", "state", "status", "system", "decision",
}  # fmt: skip


@pytest.mark.parametrize("metric", METRICS, ids=lambda each: str(each._name))
def test_a_metric_s_name_unit_and_labels(metric: MetricWrapperBase) -> None:
    name = str(metric._name)
    assert name.startswith("paybus_")
    assert not name.endswith(("_ms", "_minutes", "_milliseconds"))
    if isinstance(metric, Histogram):
        assert name.endswith("_seconds")
    if isinstance(metric, Counter):
        assert not name.endswith("_total"), "the library adds it"
    assert {*metric._labelnames} <= BOUNDED
    assert metric._documentation.endswith((".", "failed."))
