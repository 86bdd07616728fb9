"""One Paybus under chaos: its processes, its load, and the means to inject faults."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self
from uuid import uuid4

import psycopg

from chaos import effect_recorder
from chaos.expected_effects import LADDER, Books, Verdict
from chaos.infrastructure import Cluster, Ground, Pair, environment
from chaos.load import Plan, Provider, Webhooks
from common.contracts.retry_ladder import RetryLadder
from devstack.addresses import DevstackError, with_port
from devstack.processes.process import Process, Spec
from devstack.processes.stack import Stack
from devstack.processes.system import PROCESSES, System, create_databases, migrate, plan
from devstack.tokens import DevKeys
from support.proxy import Proxy
from support.waiting import Steady, poll, trouble_lasts

WORKERS = ("subscription-worker", "provisioning-worker", "ledger-worker")
# Processes that a scenario's webhooks do not need; a rollout replaces them too.
OTHERS = tuple(
    name
    for name in PROCESSES
    if not name.startswith("sandbox-") and name not in {"webhook-gateway", *WORKERS}
)

_TESTS = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 240
# Longer than any outage in a scenario and any step of the retry ladder.
_HOPELESS_SECONDS = 90
# The maximum age of the broker's management figures.
_FIGURES_SECONDS = 6
# By `smooth` (no webhook may fail): enough connections for the rate, or else eight (`triple`).
_CONNECTIONS = {False: 8, True: 64}


class Field:
    """A running Paybus. `line_to_broker` and `line_to_database` are the proxies between the workers
    and their servers."""

    def __init__(
        self,
        ground: Ground,
        load: Plan,
        *,
        seed: int,
        rate: float,
        logs: Path,
        replicas: int = 2,
        cluster: bool = False,
        pair: bool = False,
        proxied: Sequence[str] = (),
        spool: bool = False,
        smooth: bool = False,
        begins_with: str = sys.executable,
    ) -> None:
        self.ground = ground
        self.dice = random.Random(seed)
        self._seed = seed
        self._rate = rate
        self._logs = logs
        self._replicas = replicas
        self._wants_cluster = cluster
        self._wants_pair = pair
        self._proxied = proxied
        self._spool = spool
        self._smooth = smooth
        self._begins_with = begins_with
        self.sent = Webhooks.of(load, self.dice)
        self._exit = ExitStack()
        self._counts = dict.fromkeys(("webhook-gateway", *WORKERS, *OTHERS), 0)
        self._replaced = dict.fromkeys(self._counts, 0)  # the number of the first replica

    def __enter__(self) -> Self:
        with ExitStack() as exit_:
            self._exit = exit_
            self._set_up()
            self._exit = exit_.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _set_up(self) -> None:
        node = self.ground.node
        self.cluster: Cluster | None = None
        if self._wants_cluster:
            self.cluster = self.ground.cluster()
            self._exit.callback(self.cluster.end)
            node = self.cluster.nodes[0]
        self.pair: Pair | None = None
        if self._wants_pair:
            self.pair = self.ground.pair()
            self._exit.callback(self.pair.end)
        servers = [
            ("RABBITMQ_URL", node.address.url),
            ("RABBITMQ_MANAGEMENT_URL", node.address.management_url),
            ("POSTGRES_URL", (self.pair or self.ground.database).url),
        ]
        name = f"chaos_{uuid4().hex[:8]}"
        with environment(servers):
            stack = self._exit.enter_context(Stack())
        databases = {**create_databases(stack, f"{name}_")}
        databases["ledger"] = stack.database(f"{name}_ledger")
        keys = DevKeys(self._logs / "keys")
        services = {k: v for k, v in databases.items() if k != "ledger"}
        self.layout = plan(
            stack,
            virtual_host=name,
            databases=services,
            keys=keys,
            prefer_ports=False,
            extra_env={"RETRY_LADDER": LADDER},
        )
        self.layout = replace(self.layout, python=self._begins_with)
        if self.cluster is not None:
            # Clients reach a cluster through a load balancer that finds a running node.
            balancer = self._proxy([each.amqp_port for each in self.cluster.nodes])
            url = with_port(self.layout.rabbitmq_url, balancer.port)
            self.layout = replace(self.layout, rabbitmq_url=url)
        self.migrate()
        effect_recorder.create_tables(databases["ledger"])
        self.database_like = f"{name}%"
        self.databases = databases
        self._worker_env: dict[str, dict[str, str]] = {worker: {} for worker in WORKERS}
        if "broker" in self._proxied:
            self.line_to_broker = self._proxy([node.amqp_port])
            for env in self._worker_env.values():
                env["RABBITMQ_URL"] = with_port(self.layout.rabbitmq_url, self.line_to_broker.port)
        if "database" in self._proxied:
            self.line_to_database = self._proxy([self.ground.database.port])
            for worker, env in self._worker_env.items():
                url = databases[worker.partition("-")[0]]
                env["DATABASE_URL"] = with_port(url, self.line_to_database.port)
        self.books = Books(
            databases=databases,
            amqp_url=self.layout.rabbitmq_url,
            management_url=node.address.management_url,
            backend=self.layout.url("sandbox-backend"),
            consumed={
                name.removesuffix("-worker")
                for name in (*WORKERS, *(OTHERS if self._smooth else ()))
            },
        )
        self.system = System(stack, self.layout, self._logs)
        self._exit.callback(self.system.stop)
        self.system.start(["sandbox-backend"])
        self.scale("webhook-gateway", 2)
        self._declare_ledger_queue()
        for worker in WORKERS:
            self.scale(worker, self._replicas)
        if self._smooth:
            for name in OTHERS:
                self.scale(name, 1)
        self.wait_ready()
        self._rank()
        self._provider = Provider(
            [
                _url(process)
                for name, process in self.system.processes.items()
                if name in {"webhook-gateway", "webhook-gateway-1"}
            ],
            self.sent.bodies,
            rate=self._rate,
            seed=self._seed,
            connections=_CONNECTIONS[self._smooth],
        )

    # -- the load ------------------------------------------------------------------------------

    def start_load(self) -> None:
        self._provider.start()

    @property
    def flowing(self) -> bool:
        """Whether webhooks are still being sent."""
        return self._provider.is_alive()

    @property
    def accepted(self) -> int:
        return self._provider.accepted

    @property
    def sent_share(self) -> float:
        return self._provider.accepted / len(self.sent.bodies)

    def end_load(self) -> None:
        """End an open-ended load: only the webhooks sent by then count."""
        self.sent = self.sent.first(self._provider.enough())

    @property
    def pace(self) -> float:
        """Return the webhooks accepted a second, from the first to the last."""
        return self._provider.accepted / (self._provider.seconds or math.inf)

    @property
    def refused(self) -> int:
        return self._provider.refused

    def wait_for_share(self, share: float) -> None:
        """Wait for this share of accepted load. Raises `DevstackError` if the load stops."""
        poll(
            lambda: self.sent_share >= share or not self.flowing,
            seconds=_PATIENCE_SECONDS,
        )
        if self.sent_share < share:
            raise DevstackError(f"the load stopped at {self.sent_share:.0%}")

    def settle(self) -> tuple[Verdict, float]:
        """Wait until all work is done. Returns the verdict, and the seconds that it took after the
        end of faults and load."""
        # A backlog behind the gateways takes time; a lack of progress ends the wait earlier.
        limit = max(_PATIENCE_SECONDS, len(self.sent.bodies) / 10)
        # Each check counts everything and uses the same cores as the workers.
        pause = max(0.5, len(self.sent.bodies) / 5000)
        self._provider.join(limit)
        if self._provider.is_alive():
            raise DevstackError(f"not all webhooks were accepted: {self.sent_share:.1%}")
        if self._provider.accepted < len(self.sent.bodies):
            raise DevstackError("the provider failed; see its exception above")
        started = time.monotonic()
        steady = Steady()

        def done_or_hopeless() -> Verdict | None:
            # Duplicates and dead letters are final, and so is a lack of progress.
            found = self.books.verdict(self.sent)
            final = found.good or found.doubled or found.unexplained
            return found if final or steady.seconds(found) > _HOPELESS_SECONDS else None

        verdict = poll(done_or_hopeless, seconds=limit, pause=pause)
        recovery = time.monotonic() - started
        if verdict is None or verdict.good:
            verdict = self._once_more()
        if self._spool and (away := self._provider.turned_away):
            verdict.missing.append(f"{away} answers that were not 2xx, although there is a spool")
        if self._smooth:
            failures = self._provider.failures.items()
            verdict.missing += [f"{n} webhooks failed at first: {what}" for what, n in failures]
        return verdict, recovery

    def _once_more(self) -> Verdict:
        """Count again once no message is unacknowledged: it could still have a second effect."""
        steady = Steady()

        def nothing_held() -> bool:
            held = self.books.unacknowledged()
            return steady.seconds(held) > _FIGURES_SECONDS and not held

        def at_rest() -> Verdict | None:
            """Scheduled jobs continue, so their messages are in transit now and then."""
            found = self.books.verdict(self.sent)
            wrong = found.missing or found.doubled or found.unexplained
            return found if wrong or not found.waiting else None

        let_go = poll(nothing_held, seconds=_PATIENCE_SECONDS, pause=0.5)
        if not let_go and self.cluster is not None:
            # RabbitMQ 3.10 was seen to hold messages after a partition for consumers that no longer
            # existed. A node's restart returns them to the queue; messages already processed must
            # have no second effect.
            held = self.books.unacknowledged()
            print(f"    {held} messages are held for nobody: the nodes are restarted", flush=True)
            self.cluster.restart_each()
            let_go = poll(nothing_held, seconds=_PATIENCE_SECONDS, pause=0.5)
        resting = poll(at_rest, seconds=_FIGURES_SECONDS, pause=0.5)
        verdict = resting or self.books.verdict(self.sent)
        if not let_go:
            verdict.waiting["unacknowledged"] = self.books.unacknowledged()
        return verdict

    # -- the processes -------------------------------------------------------------------------

    def scale(self, name: str, replicas: int) -> None:
        """Scale as `kubectl scale` does: start missing replicas, send SIGTERM to surplus ones."""
        for replica in range(self._counts[name], replicas):
            self.system.start_one(self._spec(name, replica), restart=True)
        surplus = [self._process(name, n) for n in range(replicas, self._counts[name])]
        for process in surplus:
            process.ask_to_stop()
        for process in surplus:
            process.stop()
            del self.system.processes[process.spec.name]
        self._counts[name] = replicas

    def use_version(self, python: str) -> None:
        """Start processes, and migrate, by this interpreter from now on."""
        self.layout = replace(self.layout, python=python)

    def migrate(self) -> None:
        migrate(self.layout, self._logs)

    def replace(self, name: str) -> None:
        """Replace each replica as Kubernetes does: the new one is ready before it gets traffic, and
        the old one gets no more traffic when it receives its SIGTERM."""
        replicas = self._counts[name]
        first = self._replaced[name]
        for replica in range(first, first + replicas):
            old = self._process(name, replica)
            new = self.system.start_one(self._spec(name, replica + replicas), restart=True)
            new.wait_ready(120)
            self._rank()
            if name == "webhook-gateway":
                self._provider.use(_url(new), instead_of=_url(old))
                trouble_lasts(1)  # as the pause before the SIGTERM in deploy/k8s
            old.ask_to_stop()
            old.stop()
            del self.system.processes[old.spec.name]
        self._replaced[name] += replicas

    def wait_ready(self) -> None:
        for process in self.system.processes.values():
            process.wait_ready(120)

    def kill_one(self, *names: str) -> None:
        """SIGKILL a random replica of these processes; it is restarted, as by Kubernetes."""
        running = [
            process
            for name, process in self.system.processes.items()
            if name.startswith(names) and process.is_running()
        ]
        if running:
            self.dice.choice(running).kill(signal.SIGKILL)

    @property
    def restarts(self) -> int:
        return sum(process.restarts for process in self.system.processes.values())

    def delete_queue(self, name: str) -> None:
        """Delete a queue, as an operator or a script may do by mistake."""
        self.books.delete_queue(name)

    def lock_table(self, service: str, table: str, seconds: float) -> None:
        """Block every statement on a table, as a long migration does."""
        url = self.databases[service].replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            connection.execute("SET idle_in_transaction_session_timeout = 0")
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            trouble_lasts(seconds)

    def _rank(self) -> None:
        """Give priority to the gateways, which would have their own cores in a cluster, and to
        starting processes; lower that of the processes behind them."""
        if not self._smooth:
            return
        for name, process in self.system.processes.items():
            if not name.startswith("webhook-gateway") or "worker" in name:
                _stand_back(process.pid)

    def _process(self, name: str, replica: int) -> Process:
        return self.system.processes[name if replica == 0 else f"{name}-{replica}"]

    def _spec(self, name: str, replica: int) -> Spec:
        if name == "webhook-gateway" and self._spool:
            folder = self._logs / f"spool-{replica}"  # each has a disk of its own
            folder.mkdir(parents=True, exist_ok=True)
            return self.layout.spec(name, replica=replica, WEBHOOK_SPOOL_DIR=str(folder))
        if name != "ledger-worker":
            return self.layout.spec(name, replica=replica, **self._worker_env.get(name, {}))
        like = self.layout.spec("subscription-worker", replica=replica + 1)  # of this version
        environment = {
            **like.env,
            "DATABASE_URL": self.databases["ledger"],
            # Deliberately broken sources may come first, see tests/mutants.py.
            "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(_TESTS)]),
            **self._worker_env[name],
        }
        full = name if replica == 0 else f"{name}-{replica}"
        return Spec(full, "chaos.effect_recorder", ["worker"], environment, like.ready)

    def _declare_ledger_queue(self) -> None:
        """Declare the ledger's queue before any webhook is sent, so that it counts them all."""
        self._process("webhook-gateway", 0).wait_ready()
        effect_recorder.declare(self.layout.rabbitmq_url, RetryLadder.parse(LADDER))

    def _proxy(self, ports: Sequence[int]) -> Proxy:
        proxy = Proxy(ports)
        self._exit.callback(proxy.close)
        return proxy


def _stand_back(pid: int) -> None:
    """Lower a process's priority; where Linux autogroups are on, its session's share counts."""
    os.setpriority(os.PRIO_PROCESS, pid, 10)
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("10")


def _url(process: Process) -> str:
    return f"http://127.0.0.1:{process.spec.env['HTTP_PORT']}"
