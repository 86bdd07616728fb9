"""`python -m deploy.observability.build [--check]`: what Prometheus and Grafana read, from code.

Rules and their tests, the same rules for Kubernetes, dashboards, and docs/reference/metrics.md.
With `--check` it lists the files that are not current, and ends with 1.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from deploy.observability import alerts, dashboards, objectives
from deploy.observability.drills import DRILLS
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNBOOKS = "https://github.com/paybus/paybus/blob/main/docs/runbooks"
MODULES = {
    "common.observability.metrics": "every service",
    "common.resilience.call_guard": "services that call others",
    "common.resilience.cache": "services with a cache",
    "common.http.throttling": "services with an API",
    "webhook_gateway.metrics": "webhook-gateway",
    "subscription.metrics": "subscription",
    "provisioning.metrics": "provisioning",
    "payouts.metrics": "payouts",
    "bank_sync.metrics": "bank-sync",
    "orders.metrics": "orders",
    "operations.metrics": "operations",
}
_MADE = "Made by `make observability`: change deploy/observability/, not this file."


def files() -> Mapping[Path, str]:
    """Everything that is made, by where it belongs."""
    budgets, raised = _groups()
    crd = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "paybus",
            "namespace": "paybus",
            # Not with the first things of a roll-out: nothing that they are about is there yet.
            "labels": {"app.kubernetes.io/component": "alerts"},
        },
        "spec": {"groups": [budgets, raised]},
    }
    prometheus = HERE / "prometheus"
    made = {
        prometheus / "objectives.yml": _yaml({"groups": [budgets]}),
        prometheus / "alerts.yml": _yaml({"groups": [raised]}),
        # The longer the window, the rarer it is looked at.
        prometheus / "objectives_test.yml": _yaml(
            _tests("objectives.yml", objectives.burning("1h", "6h"), "5m", "400m", [_first_start()])
        ),
        prometheus / "objectives_days_test.yml": _yaml(
            _tests("objectives.yml", objectives.burning("3d"), "30m", "4320m")
        ),
        prometheus / "alerts_test.yml": _yaml(_tests("alerts.yml", alerts.ALERTS, "1m", "90m")),
        ROOT / "deploy/k8s/components/monitoring/rules.yaml": _yaml(crd),
        ROOT / "docs/reference/metrics.md": metrics_page(),
    }
    for board in dashboards.BOARDS:
        made[HERE / "grafana" / "dashboards" / f"{board.name}.json"] = dashboards.build(board)
    return made


def _groups() -> tuple[dict[str, Any], dict[str, Any]]:
    recorded = [{"record": each.name, "expr": each.value} for each in objectives.records()]
    return (
        {
            "name": "paybus-objectives",
            "interval": "30s",
            "rules": [*recorded, *_raised(objectives.burning())],
        },
        {"name": "paybus-alerts", "rules": _raised(alerts.ALERTS)},
    )


def _raised(chosen: Sequence[alerts.Alert]) -> list[dict[str, Any]]:
    return [
        {
            "alert": each.name,
            "expr": each.expression,
            "for": each.lasting,
            "labels": {"severity": each.severity},
            "annotations": {
                "summary": each.summary,
                "runbook_url": f"{RUNBOOKS}/{each.runbook}.md",
            },
        }
        for each in chosen
    ]


def _first_start() -> dict[str, Any]:
    """No error budget burns when a new system has had its first webhook, which took a while."""
    moments = ("5m", "10m", "30m", "60m", "360m")
    return {
        "name": "A first start is silent",
        "interval": "1m",
        "input_series": [{"series": n, "values": v} for n, v in objectives.FIRST_START.items()],
        "promql_expr_test": [
            {"expr": "count(ALERTS)", "eval_time": each, "exp_samples": []} for each in moments
        ],
    }


def _tests(
    rules: str,
    chosen: Sequence[alerts.Alert],
    every: str,
    at: str,
    more: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """For `promtool test rules`: each alert fires on its series, and is silent on the others."""
    tests = [*more]
    for each in chosen:
        firing = f'count(ALERTS{{alertname="{each.name}",alertstate="firing"}}) > 0'
        for series, fires in ((each.fires, True), (each.also_fires, True), (each.silent, False)):
            if series is None:
                continue
            tests.append(
                {
                    "name": f"{each.name} {'fires' if fires else 'is silent'}",
                    "interval": "1m",
                    "input_series": [{"series": n, "values": v} for n, v in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f"({firing}) * 0 + 1",
                            "eval_time": at,
                            "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                        }
                    ],
                }
            )
    return {"rule_files": [rules], "evaluation_interval": every, "tests": tests}


def metrics_page() -> str:
    """docs/reference/metrics.md: every metric, by who has it."""
    lines = [
        "# Metrics",
        "",
        f"<!-- {_MADE} -->",
        "",
        "Each process serves its metrics at `/metrics`. Names and units follow Prometheus' "
        "conventions; "
        "no label is an id, an address or an amount. Scrapes add `service` and `role`.",
    ]
    for module, owner in MODULES.items():
        found = [
            each
            for each in vars(importlib.import_module(module)).values()
            if isinstance(each, MetricWrapperBase)
        ]
        lines += [
            "",
            f"## {owner}",
            "",
            "| metric | kind | labels | |",
            "| --- | --- | --- | --- |",
        ]
        for metric in sorted(found, key=lambda each: str(each._name)):
            name = f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            lines.append(f"| `{name}` | {_kind(metric)} | {labels} | {metric._documentation} |")
    lines += ["", "## Recorded by Prometheus", "", "| | |", "| --- | --- |"]
    lines += [f"| `{each.name}` | `{_cell(each.value)}` |" for each in objectives.records()]
    lines += [
        "",
        "## Alerts",
        "",
        "A drill causes an alert in the running system, under the real rules (`make drill "
        "ALERT=name`). The time is from the cause to the alert, as it was measured once.",
        "",
        "| alert | severity | fires when | runbook | drill |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.name} | {each.severity} | {_words(each.summary)} | "
        f"[{each.runbook}](../runbooks/{each.runbook}.md) | {_drill(each.name)} |"
        for each in objectives.every_alert()
    ]
    return "\n".join(lines) + "\n"


def _drill(alert: str) -> str:
    drill = DRILLS.get(alert)
    if drill is None:
        return ""
    took = f": {drill.seconds // 60} min {drill.seconds % 60} s" if drill.seconds else ""
    return f"{drill.description}{took}"


def series() -> Iterator[tuple[str, frozenset[str]]]:
    """What each process may serve, by name, with its labels."""
    for module in MODULES:
        for metric in vars(importlib.import_module(module)).values():
            if not isinstance(metric, MetricWrapperBase):
                continue
            labels = frozenset(metric._labelnames)
            ends = {Counter: ["_total"], Histogram: ["_bucket", "_count", "_sum"]}
            for end in ends.get(type(metric), [""]):
                yield f"{metric._name}{end}", labels


def _kind(metric: MetricWrapperBase) -> str:
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    return next(name for kind, name in kinds.items() if isinstance(metric, kind))


def _cell(query: str) -> str:
    return query.replace("|", "\\|")


def _words(summary: str) -> str:
    return summary.replace("{{ $labels.", "*").replace(" }}", "*")


def _yaml(content: Any) -> str:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    return f"# {_MADE}\n{text}"


def main() -> int:
    check = "--check" in sys.argv
    old = []
    for path, text in files().items():
        if path.exists() and path.read_text() == text:
            continue
        old.append(path.relative_to(ROOT))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if check and old:
        print(f"not current: {', '.join(map(str, old))}: run `make observability`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
