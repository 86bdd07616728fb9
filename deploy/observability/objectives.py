"""Objectives: how much of what counts may be bad within thirty days, and the alerts when that budget
is used up too fast. Site Reliability Workbook, chapter 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deploy.observability.alerts import ALERTS, Alert, Series, buckets

_HOUR: Final = 3_600
_DAY: Final = 24 * _HOUR
_FEWEST_BAD: Final = 5


@dataclass(frozen=True)
class Record:
    """A figure that Prometheus computes again and again, under a name."""

    name: str
    value: str


@dataclass(frozen=True)
class Objective:
    """A share (`target`) of what counts is to be good, over thirty days. `ready` is a series that
    is 0 while nothing could be good and nothing was counted: the share of that time is bad, if it
    is the larger one.

    Over an hour and more, a few bad events are no ratio, and neither is the readiness of a system
    that was first started within that time.
    """

    name: str
    target: float
    bad: str  # with {window}: events a second
    all: str
    summary: str
    runbook: str
    fires: Series
    silent: Series
    ready: str = ""
    also_fires: Series | None = None

    def bad_ratio(self, window: str) -> str:
        seconds = WINDOWS[window]
        bad, every = self.bad.format(window=window), self.all.format(window=window)
        if seconds >= _HOUR:
            bad = f"({bad}) >= {_FEWEST_BAD}/{seconds} or vector(0)"
        counted = f"({bad}) / ({every} > 0 or vector(1))"
        if not self.ready:
            return counted
        away = f"1 - max(avg_over_time({self.ready}[{window}]))"
        if seconds >= _HOUR:
            oldest = f"[{seconds // 10}s] offset {seconds - seconds // 10}s"
            away = f"({away}) and max(present_over_time({self.ready}{oldest}))"
        return f"({away}) >= ({counted}) or ({counted}) or ({away})"


_READY = "paybus:gateway_ready"
_IN_TIME = buckets(
    "paybus_event_latency_seconds", 'queue="orders.payments"',
    {"60.0": "0+100x4400", "300.0": "0+100x4400", "+Inf": "0+100x4400"},
)  # fmt: skip
_LATE = buckets(
    "paybus_event_latency_seconds", 'queue="orders.payments"',
    {"60.0": "0+10x4400", "300.0": "0+20x4400", "3600.0": "0+100x4400", "+Inf": "0+100x4400"},
)  # fmt: skip

OBJECTIVES: Final[Sequence[Objective]] = (
    Objective(
        "webhooks_available", 0.999,
        'sum(rate(paybus_webhook_duration_seconds_count{{outcome=~"unavailable|error"}}[{window}])) or vector(0)',
        'sum(rate(paybus_webhook_duration_seconds_count{{outcome!~"refused|limited"}}[{window}]))',
        "Webhooks are not accepted",
        "webhooks",
        {
            'paybus_webhook_duration_seconds_count{outcome="unavailable"}': "0+5x4400",
            'paybus_webhook_duration_seconds_count{outcome="published"}': "0+95x4400",
        },
        {
            'paybus_webhook_duration_seconds_count{outcome="published"}': "0+95x4400",
            'up{service="webhook-gateway"}': "1x4400",
            "paybus_gateway_ready": "1x4400",
        },
        # Before a gateway that is not ready nobody counts what was refused.
        ready=_READY,
        also_fires={'up{service="webhook-gateway"}': "1x4400", "paybus_gateway_ready": "1x60 0x4340"},
    ),
    Objective(
        "events_fresh", 0.99,
        'sum(rate(paybus_event_latency_seconds_bucket{{le="+Inf"}}[{window}])) '
        '- sum(rate(paybus_event_latency_seconds_bucket{{le="60.0"}}[{window}])) or vector(0)',
        'sum(rate(paybus_event_latency_seconds_bucket{{le="+Inf"}}[{window}]))',
        "Events take more than a minute to take effect",
        "queue-growing",
        _LATE,
        _IN_TIME,
    ),
)  # fmt: skip

# Ready after two minutes, and the first webhook took more than one to take effect.
FIRST_START: Final[Series] = {
    'up{service="webhook-gateway"}': "1x400",
    "paybus_gateway_ready": "0 0 1x400",
    'paybus_webhook_duration_seconds_count{outcome="published"}': "0 0 1x400",
    **buckets(
        "paybus_event_latency_seconds", 'queue="subscription.billing"',
        {"60.0": "0x402", "300.0": "0 0 0 1x400", "+Inf": "0 0 0 1x400"},
    ),
}  # fmt: skip

# How much of thirty days' budget is used up in which time.
BURNING: Final = (
    (14.4, "1h", "5m", "2m", "page"),
    (6.0, "6h", "30m", "15m", "page"),
    (1.0, "3d", "6h", "1h", "ticket"),
)
WINDOWS: Final = {"5m": 300, "30m": 1800, "1h": _HOUR, "6h": 6 * _HOUR, "3d": 3 * _DAY}


def ratio(objective: Objective, window: str) -> str:
    return f"paybus:{objective.name}:bad_ratio_{window}"


def records() -> Sequence[Record]:
    ready = Record(_READY, 'max(paybus_gateway_ready) or 0 * max(up{service="webhook-gateway"})')
    return [
        ready,
        *(
            Record(
                ratio(each, window),
                each.bad_ratio(window),
            )
            for each in OBJECTIVES
            for window in WINDOWS
        ),
    ]


def burning(*windows: str) -> Sequence[Alert]:
    """An alert for each objective and each speed at which its budget is used up, or only those of
    these windows."""
    found = []
    for each in OBJECTIVES:
        budget = 1 - each.target
        for factor, long, short, lasting, severity in BURNING:
            if windows and long not in windows:
                continue
            limit = factor * budget
            name = "".join(part.capitalize() for part in each.name.split("_"))
            found.append(
                Alert(
                    f"{name}Budget{long}",
                    ratio(each, long),
                    limit,
                    lasting,
                    "page" if severity == "page" else "ticket",
                    f"{each.summary}: the error budget of the {each.target:.1%} objective burns at {factor:g} times the sustainable rate",
                    each.runbook,
                    each.fires,
                    each.silent,
                    also=f"and {ratio(each, short)} > {limit:g}",
                    also_fires=each.also_fires,
                )
            )
    return found


def every_alert() -> Sequence[Alert]:
    return [*ALERTS, *burning()]
