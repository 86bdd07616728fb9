"""`make soak [MINUTES=60] [RATE=33] [SEED=...]`: a long load with a fault every two minutes.

Exits with 0 if no effect was lost or duplicated and nothing grew that should not: memory and file
descriptors of each process, size of the outboxes, bytes per row of stored data. The figures and
their chart are written to `.paybus/soak`.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import matplotlib as mpl
import psycopg
from prometheus_client.parser import text_string_to_metric_families

mpl.use("Agg")
from matplotlib import pyplot

from chaos.environment import WORKERS, Field
from chaos.infrastructure import ground
from chaos.load import Plan
from chaos.scenarios import (
    Disturb,
    disturb_line,
    memory_alarm,
    restart_broker,
    restart_postgres,
)
from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from support.proxy import Line
from support.waiting import trouble_lasts

_FAULT_SECONDS = 120
_SAMPLE_SECONDS = 10
# The maximum ratio of the last third's median to the middle third's.
_MOST_GROWTH = 1.1
# For tables that are empty most of the time, the size after a busy minute counts.
_EMPTY_BYTES = 64 * 1024 * 1024
_SERVICES = ("subscription", "provisioning", "ledger")
_KEPT = (
    ("subscription", "inbox"),
    ("subscription", "payments"),
    ("subscription", "subscriptions"),
    ("provisioning", "integrations"),
)


def _scale(where: Field) -> None:
    for replicas in (4, 2):
        for worker in WORKERS:
            where.scale(worker, replicas)
        trouble_lasts(10)


FAULTS: Mapping[str, Disturb] = {
    "process killed": lambda where: where.kill_one("webhook-gateway", *WORKERS),
    "broker killed": restart_broker,
    "PostgreSQL stopped": restart_postgres,
    "connections dropped": lambda where: where.ground.database.drop_connections(
        where.database_like
    ),
    "memory alarm": memory_alarm,
    "broker cut off": partial(disturb_line, lambda where: where.line_to_broker, Line.CUT, 5),
    "broker silent": partial(disturb_line, lambda where: where.line_to_broker, Line.SILENT, 30),
    "database cut off": partial(disturb_line, lambda where: where.line_to_database, Line.CUT, 5),
    "database slow": partial(disturb_line, lambda where: where.line_to_database, Line.SLOW, 15),
    "scaled to 4 and back": _scale,
}


@dataclass
class Sample:
    """One set of measurements. Times are in seconds since the start, sizes in bytes."""

    at: float
    memory: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    outboxes: dict[str, int] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)  # bytes per row, indexes included
    age: float | None = None  # seconds, mean of the events since the last sample
    accepted: int = 0


class Watch:
    """Takes samples of a running field."""

    def __init__(self, where: Field) -> None:
        self._field = where
        self._begun = time.monotonic()
        self._ages: dict[str, tuple[float, float]] = {}
        self.samples: list[Sample] = []
        self.faults: list[tuple[float, str]] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self._begun

    def look(self) -> None:
        sample = Sample(self.now, accepted=self._field.accepted)
        total = count = 0.0
        for name, process in self._field.system.processes.items():
            if name.startswith("sandbox-") or not process.is_running():
                continue
            try:
                sample.memory[name], sample.descriptors[name] = _of_process(process.pid)
            except OSError:
                continue  # it ended meanwhile
            if process.spec.ready and "worker" in name:
                added, times = self._age(f"{name} {process.pid}", process.spec.ready)
                total, count = total + added, count + times
        sample.age = total / count if count else None
        try:
            for service in _SERVICES:
                sample.outboxes[service] = self._sizes(service, "outbox")[0]
            for service, table in _KEPT:
                size, rows = self._sizes(service, table)
                if rows:
                    sample.kept[f"{service}.{table}"] = size / rows
        except psycopg.OperationalError:
            pass  # the database is down, as intended by a fault
        self.samples.append(sample)

    def _age(self, key: str, ready: str) -> tuple[float, float]:
        """Return what a worker has added to sum and count of its events' latency."""
        try:
            text = httpx.get(str(httpx.URL(ready).copy_with(path="/metrics")), timeout=5).text
        except httpx.TransportError:
            return 0.0, 0.0
        values = {"_sum": 0.0, "_count": 0.0}
        for family in text_string_to_metric_families(text):
            if family.name == "paybus_event_latency_seconds":
                for each in family.samples:
                    ending = each.name.removeprefix(family.name)
                    if ending in values:
                        values[ending] += each.value
        before = self._ages.get(key, (0.0, 0.0))
        self._ages[key] = now = (values["_sum"], values["_count"])
        return now[0] - before[0], now[1] - before[1]

    def _sizes(self, service: str, table: str) -> tuple[int, int]:
        url = self._field.databases[service].replace("+psycopg", "")
        with psycopg.connect(url, connect_timeout=5) as connection:
            row = connection.execute(
                "SELECT pg_total_relation_size(c.oid), c.reltuples::bigint"
                " FROM pg_class c WHERE c.oid = %s::regclass",
                [table],
            ).fetchone()
            assert row is not None
            return row[0], max(0, row[1])


def _of_process(pid: int) -> tuple[int, int]:
    """Return resident memory in bytes, and the number of open file descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    (resident,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(resident.split()[1]) * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def growths(samples: list[Sample]) -> Iterator[tuple[str, float, float]]:
    """Yield what grew more than allowed: name, the middle third's median, the last third's."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    for what, values in (
        ("memory of all processes", lambda each: sum(each.memory.values())),
        ("descriptors of all processes", lambda each: sum(each.descriptors.values())),
    ):
        before, after = (statistics.median(map(values, part)) for part in (middle, last))
        if after > before * _MOST_GROWTH:
            yield what, before, after
    for kind, allowed in (("outboxes", _EMPTY_BYTES), ("kept", 0)):
        names = {name for each in samples for name in getattr(each, kind)}
        for name in sorted(names):
            parts = [
                [getattr(each, kind)[name] for each in part if name in getattr(each, kind)]
                for part in (middle, last)
            ]
            if not all(parts):
                continue
            before, after = map(statistics.median, parts)
            if after > max(before * _MOST_GROWTH, allowed):
                yield f"{kind} {name}", before, after


def draw(watch: Watch, path: Path) -> None:
    minutes = [each.at / 60 for each in watch.samples]
    figure, panels = pyplot.subplots(5, 1, figsize=(10, 14), sharex=True, layout="constrained")
    mib = 1024 * 1024
    for panel, title, kind, unit in (
        (panels[0], "resident memory (MiB)", "memory", mib),
        (panels[1], "file descriptors", "descriptors", 1),
        (panels[2], "outboxes, indexes included (MiB)", "outboxes", mib),
        (panels[3], "bytes per kept row, indexes included", "kept", 1),
    ):
        names = sorted({name for each in watch.samples for name in getattr(each, kind)})
        for name in names:
            values = [getattr(each, kind).get(name) for each in watch.samples]
            scaled = [float("nan") if value is None else value / unit for value in values]
            panel.plot(minutes, scaled, label=name, linewidth=1)
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=6, ncols=4, loc="lower right")
    ages = [float("nan") if each.age is None else each.age for each in watch.samples]
    panels[4].plot(minutes, ages, linewidth=1)
    panels[4].set_yscale("log")
    panels[4].set_title("events' age when their effect is committed (s, mean)", loc="left")
    panels[4].set_xlabel("minutes")
    for at, name in watch.faults:
        for panel in panels:
            panel.axvline(at / 60, color="lightgrey", linewidth=0.5, zorder=0)
        panels[4].text(at / 60, panels[4].get_ylim()[1], name, rotation=90, fontsize=5, va="top")
    figure.savefig(path)
    pyplot.close(figure)


def run(minutes: float, rate: float, seed: int, logs: Path) -> bool:
    webhooks = int(minutes * 60 * rate)
    with (
        ground() as on,
        Field(
            on,
            Plan(webhooks, open_ended=True),
            seed=seed,
            rate=rate,
            logs=logs,
            proxied=("broker", "database"),
        ) as where,
    ):
        watch = Watch(where)
        where.start_load()
        next_fault, faults = _FAULT_SECONDS, list[str]()
        while where.flowing:
            trouble_lasts(_SAMPLE_SECONDS)
            watch.look()
            if watch.now < next_fault or watch.now > (minutes * 60) - _FAULT_SECONDS:
                continue
            # Each fault occurs once before any is repeated.
            faults = faults or where.dice.sample(list(FAULTS), len(FAULTS))
            name = faults.pop()
            watch.faults.append((watch.now, name))
            print(f"{watch.now / 60:5.1f} min  {where.accepted:8}  {name}", flush=True)
            FAULTS[name](where)
            next_fault += _FAULT_SECONDS
        verdict, recovery = where.settle()
        watch.look()
        draw(watch, logs / "soak.svg")
        (logs / "soak.json").write_text(json.dumps([vars(each) for each in watch.samples]))
        grown = list(growths(watch.samples))
        print(
            f"{where.accepted} webhooks in {minutes:.0f} minutes, {where.refused} sent again, "
            f"{len(watch.faults)} faults: {verdict.effects} effects, {len(verdict.missing)} lost, "
            f"{len(verdict.doubled)} doubled, recovered in {recovery:.1f} s"
        )
        for what, before, after in grown:
            print(f"GREW: {what}, from {before:,.0f} to {after:,.0f}")
        for name in (*verdict.missing, *verdict.doubled, *verdict.unexplained)[:20]:
            print(f"    {name}")
        return verdict.good and not grown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.soak")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=33, help="webhooks a second")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    logs = PAYBUS / "soak"
    shutil.rmtree(logs, ignore_errors=True)
    print(
        f"`make soak MINUTES={options.minutes:g} RATE={options.rate:g} SEED={options.seed}`",
        flush=True,
    )
    good = run(options.minutes, options.rate, options.seed, logs)
    print(f"figures and picture: {logs}")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DevstackError as error:
        sys.exit(f"make soak: {error}")
