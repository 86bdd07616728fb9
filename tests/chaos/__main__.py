"""`make chaos [SEED=...] [SCENARIOS=a,b] [WEBHOOKS=5000]`."""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import time
import traceback
import zlib
from dataclasses import dataclass
from pathlib import Path

from chaos import payouts
from chaos.environment import Field
from chaos.expected_effects import Verdict
from chaos.infrastructure import Ground, ground
from chaos.load import FEWEST
from chaos.scenarios import PAYDAY, SCENARIOS, Scenario
from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from support import previous_version

_SHOWN = 10


@dataclass(frozen=True)
class Outcome:
    """The result of a scenario. `recovery` is in seconds, see `Field.settle`; `pace` is in webhooks
    a second."""

    scenario: Scenario
    webhooks: int
    verdict: Verdict
    refused: int
    restarts: int
    recovery: float
    pace: float = 0.0

    def row(self) -> str:
        verdict = self.verdict
        cells = (
            f"`{self.scenario.name}`",
            self.scenario.what,
            self.webhooks,
            verdict.effects,
            len(verdict.missing),
            len(verdict.doubled),
            self.refused,
            self.restarts,
            f"{self.recovery:.1f} s",
        )
        return "| " + " | ".join(map(str, cells)) + " |"


_HEAD = (
    "| scenario | what happens | accepted | effects | lost | doubled | refused, sent again "
    "| restarts | recovery |\n" + "| --- " * 9 + "|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--webhooks", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=125, help="webhooks a second")
    parser.add_argument("--scenarios", default="", help="names, separated by commas; all if empty")
    options = parser.parse_args()
    if options.webhooks < FEWEST:
        parser.error(f"a scenario needs {FEWEST} webhooks at the least: WEBHOOKS={FEWEST}")
    logging.disable(logging.CRITICAL)
    chosen = _choose(options.scenarios)
    again = f"make chaos SEED={options.seed} WEBHOOKS={options.webhooks}"
    if options.scenarios:
        again += f" SCENARIOS={','.join(each.name for each in chosen)}"
    print(f"replay with `{again}`", flush=True)
    logs = PAYBUS / "chaos"
    shutil.rmtree(logs, ignore_errors=True)
    outcomes = []
    with ground() as on:
        for scenario in chosen:
            # Seeded by name, so that a scenario does not depend on which others run.
            seed = options.seed + zlib.crc32(scenario.name.encode())
            outcome = _run(on, scenario, options.webhooks, options.rate, seed, logs)
            outcomes.append(outcome)
    print(_HEAD)
    for outcome in outcomes:
        print(outcome.row())
    broken = [outcome.scenario.name for outcome in outcomes if not outcome.verdict.good]
    effects = sum(outcome.verdict.effects for outcome in outcomes)
    if broken:
        print(f"BROKEN: {', '.join(broken)}; the processes' logs are in {logs}")
        return 1
    print(f"{len(outcomes)} scenarios, {effects} effects: none lost, none doubled")
    return 0


def _choose(names: str) -> list[Scenario]:
    if not names:
        return list(SCENARIOS)
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    wanted = [name.strip() for name in names.split(",")]
    unknown = set(wanted) - by_name.keys()
    if unknown:
        raise SystemExit(
            f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(by_name)}"
        )
    return [by_name[name] for name in wanted]


def _run(
    on: Ground, scenario: Scenario, webhooks: int, rate: float, seed: int, logs: Path
) -> Outcome:
    started = time.monotonic()
    outcome = (
        _run_payday(on, webhooks, seed, logs)
        if scenario is PAYDAY
        else _run_field(on, scenario, webhooks, rate, seed, logs)
    )
    verdict = outcome.verdict
    took = time.monotonic() - started
    mark = "ok" if verdict.good else "BROKEN"
    print(
        f"{scenario.name:19} {mark:7} {verdict.effects} effects, {len(verdict.missing)} lost, "
        f"{len(verdict.doubled)} doubled, recovered in {outcome.recovery:.1f} s "
        f"({took:.0f} s in all; {outcome.pace:.0f} webhooks a second)",
        flush=True,
    )
    for what, names in (
        ("lost", verdict.missing),
        ("doubled", verdict.doubled),
        ("unexplained", verdict.unexplained),
        ("waiting", [f"{name}: {count}" for name, count in verdict.waiting.items()]),
    ):
        for name in names[:_SHOWN]:
            print(f"    {what}: {name}")
        if len(names) > _SHOWN:
            print(f"    and {len(names) - _SHOWN} more")
    return outcome


def _broke_off(error: Exception, logs: Path) -> Verdict:
    (logs / "broke-off.txt").write_text("".join(traceback.format_exception(error)))
    return Verdict(missing=[f"it broke off, see broke-off.txt: {type(error).__name__}: {error}"])


def _run_payday(on: Ground, count: int, seed: int, logs: Path) -> Outcome:
    try:
        verdict, restarts, recovery = payouts.run(on, count, seed=seed, logs=logs / PAYDAY.name)
    except Exception as error:  # noqa: BLE001 - the others still run
        verdict = _broke_off(error, logs / PAYDAY.name)
        restarts, recovery = 0, 0.0
    return Outcome(PAYDAY, count, verdict, 0, restarts, recovery)


def _run_field(
    on: Ground, scenario: Scenario, webhooks: int, rate: float, seed: int, logs: Path
) -> Outcome:
    field = Field(
        on,
        scenario.plan(webhooks),
        seed=seed,
        rate=max(rate, 200) if scenario.smooth else rate * scenario.copies,
        logs=logs / scenario.name,
        replicas=scenario.replicas,
        cluster=scenario.cluster,
        pair=scenario.pair,
        proxied=scenario.proxied,
        spool=scenario.spool,
        smooth=scenario.smooth,
        begins_with=previous_version.python() if scenario.upgrade else sys.executable,
    )
    with field:
        field.start_load()
        try:
            scenario.disturb(field)
            verdict, recovery = field.settle()
        except Exception as error:  # noqa: BLE001 - the others still run
            verdict, recovery = _broke_off(error, logs / scenario.name), 0.0
        return Outcome(
            scenario,
            len(field.sent.bodies),
            verdict,
            field.refused,
            field.restarts,
            recovery,
            field.pace,
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DevstackError as error:
        sys.exit(f"make chaos: {error}")
