"""`make observability-check`: rules and routes by the tools of those who run them; then every query
of every panel and alert is asked of a real Prometheus that scrapes the whole running system under
the demo's load. One without an answer fails."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml
from deploy.observability import alerts, dashboards, objectives
from rich.console import Console

from devstack.addresses import DevstackError, free_ports
from devstack.demo.environment import scene
from devstack.demo.main import OPTIONS, play
from devstack.processes import child
from devstack.processes.system import PROCESSES, Layout, System
from devstack.servers.rabbitmq import broker_of_our_own
from devstack.tokens import DevKeys
from devstack.tools import tool

_HERE = Path(__file__).parent
_SCRAPE = "2s"
_PATIENCE_SECONDS = 60
_SUBSCRIPTIONS, _CHECKOUTS = 20, 20


def main() -> int:
    console = Console()
    (metrics_port,) = free_ports(1)
    try:
        _tools()
        with broker_of_our_own(metrics_port=metrics_port) as broker:
            if broker is not None:
                silent = _observe(console, metrics_port)
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        print(f"not checked here: {error}")
        return 0
    if broker is None:
        print("the queries need a rabbitmq-server of this machine, and no RABBITMQ_URL")
        return 1
    for name, query in silent.items():
        print(f"no data: {name}\n    {query}")
    print(f"{len(queries())} queries, {len(silent)} without data")
    return 1 if silent else 0


def _observe(console: Console, metrics_port: int) -> Mapping[str, str]:
    """The queries that have no answer."""
    with (
        scene("observability", PROCESSES, console, **OPTIONS) as (system, keys),
        prometheus(system.layout, metrics_port) as url,
    ):
        return asyncio.run(_play(system, keys, console, url))


def queries() -> Mapping[str, str]:
    """By where each stands. An alert's is what it compares: the comparison itself has no answer
    when all is well."""
    found = {each.name: each.value for each in objectives.records()}
    found |= {
        f"alert {each.name}": each.value for each in objectives.every_alert() if not each.foreign
    }
    for board in dashboards.BOARDS:
        for panel in board.panels:
            for legend, query in panel.queries.items():
                found[f"{board.title}, {panel.title}, {legend}"] = query
    return found


# Where all is well nothing of this is so.
_QUIET = frozenset({
    "BrokerUnreachable", "ProcessUnreachable", "ProcessMissing", "GatewayAway", "QueuesNotWatched",
    "QueueWithoutConsumer", "PayoutDoubled",
})  # fmt: skip


def _tools() -> None:
    promtool, amtool = str(tool("promtool")), str(tool("amtool"))
    rules = _HERE / "prometheus"
    files = [str(rules / name) for name in ("objectives.yml", "alerts.yml")]
    _run([promtool, "check", "rules", *files])
    _run([promtool, "check", "config", "--syntax-only", str(rules / "prometheus.yml")])
    proofs = sorted(each.name for each in rules.glob("*_test.yml"))
    _run([promtool, "test", "rules", *proofs], cwd=rules)
    routes = f"--config.file={_HERE / 'alertmanager' / 'alertmanager.yml'}"
    _run([amtool, "check-config", routes.partition("=")[2]])
    for severity, receivers in (("page", "pagerduty,slack-pages"), ("ticket", "slack-tickets")):
        said = _run([amtool, "config", "routes", "test", routes, f"severity={severity}"])
        if said.split()[-1] != receivers:
            raise SystemExit(f"a {severity} goes to {said.split()[-1]}, not to {receivers}")
    print(
        f"{len(objectives.every_alert())} alerts fire and stay silent as they should; "
        "routes are right"
    )


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def prometheus(layout: Layout, broker: int) -> Iterator[str]:
    """Debian's, with our rules; it scrapes every process, as in a cluster."""
    with tempfile.TemporaryDirectory(prefix="paybus-prometheus-") as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(yaml.safe_dump(_scraping(layout, broker)))
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        log = Path(folder) / "log"
        command = [
            str(tool("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        process = child.start(command, log=log, env=os.environ)

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/-/ready", timeout=2).is_success
            except httpx.TransportError:
                return False

        child.wait_until(ready, process, what="Prometheus", log=log, seconds=60)
        try:
            yield url
        finally:
            child.stop(process, signal.SIGTERM, 30)


def _scraping(layout: Layout, broker: int) -> dict[str, object]:
    targets = []
    for name in PROCESSES:
        if name.startswith("sandbox-"):
            continue
        service = name.removesuffix("-api").removesuffix("-worker")
        labels = {"service": service, "role": "worker" if name.endswith("-worker") else "api"}
        address = f"127.0.0.1:{layout.ports[name]}"
        targets.append({"targets": [address], "labels": labels})
    rules = [str(_HERE / "prometheus" / name) for name in ("objectives.yml", "alerts.yml")]
    return {
        "global": {"scrape_interval": _SCRAPE, "evaluation_interval": _SCRAPE},
        "rule_files": rules,
        "scrape_configs": [
            {"job_name": "paybus", "static_configs": targets},
            {
                "job_name": "rabbitmq",
                "static_configs": [{"targets": [f"127.0.0.1:{broker}"]}],
            },
        ],
    }


async def _play(system: System, keys: DevKeys, console: Console, url: str) -> Mapping[str, str]:
    """The demo's load; then the queries that have no answer."""
    came_true = await play(system, keys, console, _SUBSCRIPTIONS, _CHECKOUTS)
    if not came_true:
        raise SystemExit("the demo did not come true: its figures prove nothing")
    await _run_jobs(system, keys)
    until = time.monotonic() + _PATIENCE_SECONDS
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        silent = await _silent(http, queries())
        while silent and time.monotonic() < until:  # what is counted every few seconds only
            await asyncio.sleep(3)
            silent = await _silent(http, silent)
        quiet = {each.name: each.expression for each in alerts.ALERTS if each.name in _QUIET}
        if false := quiet.keys() - (await _silent(http, quiet)).keys():
            raise SystemExit(f"all is well, and yet: {', '.join(sorted(false))}")
    return silent


async def _run_jobs(system: System, keys: DevKeys) -> None:
    """Of operations, which are not due so soon."""
    url = f"{system.layout.url('operations-api')}/v1/schedules"
    headers = {"Authorization": f"Bearer {keys.token('operator')}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as http:
        for each in (await http.get(url)).raise_for_status().json():
            (await http.post(f"{url}/{each['name']}/run")).raise_for_status()


async def _silent(http: httpx.AsyncClient, asked: Mapping[str, str]) -> Mapping[str, str]:
    found = {}
    for name, query in asked.items():
        answer = await http.get("/api/v1/query", params={"query": query})
        if answer.status_code != httpx.codes.OK:
            raise SystemExit(f"{name}: {answer.text}")
        if not answer.json()["data"]["result"]:
            found[name] = query
    return found


if __name__ == "__main__":
    sys.exit(main())
