"""Rounds to medians, and medians to a table, a picture and a file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

RESULTS = Path(__file__).parent / "results"

PAYBUS, CELERY, SYNC = "paybus", "celery", "django_sync"
_SIDES = (PAYBUS, CELERY, SYNC)

# (figure, unit, what must be, what we aim for, both as text)
_TARGETS = {
    "ingest.rate": ("webhooks/s", "2.2 x", "3.5 x"),
    # Its ratio is that of `ingest.rate`, which is measured with every provider and many tenants.
    "ingest.rate_one_endpoint": ("webhooks/s", "0.95 x", "1.0 x"),
    "ingest.p50_ms": ("ms", "", ""),
    "ingest.p99_ms": ("ms", "0.25 x", "0.1 x"),
    "effects.rate": ("events/s", "8 x", "15 x"),
    "e2e.active_p50_ms": ("ms", "60 ms", "20 ms"),
    "e2e.active_p99_ms": ("ms", "300 ms", "100 ms"),
    "e2e.provisioned_p99_ms": ("ms", "", ""),
    "relay.rate": ("rows/s", "", ""),
    "sustained.per_minute": ("webhooks/min", "15,000", "50,000"),
    "sustained.p99_ms": ("ms", "", ""),
    "backlog.rate_small": ("events/s", "", ""),
    "backlog.rate_large": ("events/s", "0.9 x", "1.0 x"),
    "memory.growth": ("x", "1.1 x", "1.0 x"),
    "payouts.per_minute": ("payouts/min", "2,000", "10,000"),
    "payouts.connections_over_pool": ("connections", "2", "1"),
    "payouts.cpu_ms_small": ("ms", "", ""),
    # Its ratio is to `payouts.cpu_ms_small`: 100,000 pending against 1,000.
    "payouts.cpu_ms_large": ("ms", "1.1 x", "1.0 x"),
    "bank_sync.rate": ("transactions/s", "3,000", "10,000"),
    "bank_sync.visible_p50_ms": ("ms", "", ""),
    "bank_sync.visible_p99_ms": ("ms", "", ""),
}
_LIMITS = ("asgi_echo.rate", "confirmed_publishes.rate", "commits.rate")


class Report:
    def __init__(self) -> None:
        self._rounds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._limits: dict[str, list[float]] = defaultdict(list)

    def add(self, figure: str, side: str, value: float) -> None:
        self._rounds[figure][side].append(value)
        print(f"  {figure:24} {side:12} {value:12,.1f}", flush=True)

    def limit(self, figure: str, value: float) -> None:
        self._limits[figure].append(value)
        print(f"  {figure:24} {'limit':12} {value:12,.1f}", flush=True)

    def median(self, figure: str, side: str = PAYBUS) -> float:
        return statistics.median(self._rounds[figure][side])

    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for figure, sides in self._rounds.items():
            entry: dict[str, Any] = {
                side: round(statistics.median(values), 3) for side, values in sides.items()
            }
            if CELERY in sides:
                entry["ratio"] = round(self.median(figure) / self.median(figure, CELERY), 3)
            entry["spread"] = {
                side: [round(min(values), 3), round(max(values), 3)]
                for side, values in sides.items()
            }
            found[figure] = entry
        if "backlog.rate_small" in found:
            small, large = self.median("backlog.rate_small"), self.median("backlog.rate_large")
            found["backlog.rate_large"]["ratio"] = round(large / small, 3)
        if "ingest.rate_one_endpoint" in found:
            all_, one = self.median("ingest.rate"), self.median("ingest.rate_one_endpoint")
            found["ingest.rate_one_endpoint"]["ratio"] = round(all_ / one, 3)
        if "payouts.cpu_ms_large" in found:
            small, large = self.median("payouts.cpu_ms_small"), self.median("payouts.cpu_ms_large")
            found["payouts.cpu_ms_large"]["ratio"] = round(large / small, 3)
        found["limit"] = {
            figure: round(statistics.median(values), 1) for figure, values in self._limits.items()
        }
        found["machine"] = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "processor": platform.machine(),
        }
        return found

    def table(self) -> str:
        results = self.results()
        lines = [
            "| figure | unit | paybus | celery | django, sync | ratio | must | aim |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for figure, (unit, must, aim) in _TARGETS.items():
            if figure not in results:
                continue
            entry = results[figure]
            cells = [figure, unit, *(_cell(entry, side) for side in _SIDES)]
            ratio = entry.get("ratio")
            cells += ["" if ratio is None else f"{ratio:.2f} x", must, aim]
            lines.append("| " + " | ".join(cells) + " |")
        for figure in _LIMITS:
            if figure in results["limit"]:
                value = results["limit"][figure]
                lines.append(f"| limit: {figure} | /s | {value:,.0f} | | | | | |")
        return "\n".join(lines)

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        results = self.results()
        (RESULTS / "latest.json").write_text(json.dumps(results, indent=1) + "\n")
        self._draw(results, RESULTS / "latest.svg")

    def _draw(self, results: dict[str, Any], path: Path) -> None:
        drawn = [
            name for name in ("ingest.rate", "ingest.p99_ms", "effects.rate") if name in results
        ]
        if not drawn:
            return
        figure, axes = pyplot.subplots(1, len(drawn), figsize=(4 * len(drawn), 3.4), squeeze=False)
        colours = {PAYBUS: "#2b6cb0", CELERY: "#a0aec0", SYNC: "#cbd5e0"}
        for axis, name in zip(axes[0], drawn, strict=True):
            sides = [side for side in _SIDES if side in results[name]]
            values = [results[name][side] for side in sides]
            low = [v - results[name]["spread"][s][0] for s, v in zip(sides, values, strict=True)]
            high = [results[name]["spread"][s][1] - v for s, v in zip(sides, values, strict=True)]
            bars = axis.bar(
                sides, values, color=[colours[side] for side in sides], yerr=[low, high]
            )
            axis.bar_label(bars, fmt="{:,.0f}")
            axis.set_title(f"{name} ({_TARGETS[name][0]})")
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _cell(entry: dict[str, Any], side: str) -> str:
    if side not in entry:
        return ""
    low, high = entry["spread"][side]
    value = entry[side]
    digits = 2 if abs(value) < 10 else 0
    spread = "" if low == high else f" ({low:,.{digits}f} to {high:,.{digits}f})"
    return f"{value:,.{digits}f}{spread}"
