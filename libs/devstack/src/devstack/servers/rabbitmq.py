"""A private RabbitMQ node from the binary on this machine, on free ports, listening on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import httpx

from devstack.addresses import DevstackError, RabbitMQ, free_ports
from devstack.processes import child
from devstack.servers import debian

# Debian's /usr/sbin wrapper changes the user; the script behind it does not.
_DEBIAN_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class PrivateNode:
    """One node with its data in `state`; the same `state` starts with the same queues.

    With `cluster`, the names of all its nodes, it joins the others; the code that created them runs
    the epmd at `epmd_port`. A node that is silent for `silence` seconds is down (Erlang's default
    is 60). `metrics_port`, if any, serves Prometheus. `configuration` are additional lines.
    """

    def __init__(
        self,
        server: Path,
        state: Path,
        password: str,
        *,
        name: str = "paybus",
        cluster: Sequence[str] = (),
        epmd_port: int | None = None,
        metrics_port: int | None = None,
        silence: int | None = None,
        configuration: Sequence[str] = (),
    ) -> None:
        self._server = server
        self._state = state
        self._password = password
        self._amqp, self._management, self._distribution, own_epmd = free_ports(4)
        self.name = f"{name}@localhost"
        self._cluster = cluster
        self._epmd = epmd_port or own_epmd
        self._metrics = metrics_port
        self._silence = silence
        self._more = configuration
        self._runs_epmd = epmd_port is None
        self._log = state / "rabbitmq.log"
        self._processes: list[Popen[bytes]] = []

    @property
    def address(self) -> RabbitMQ:
        login = f"paybus:{self._password}@127.0.0.1"
        return RabbitMQ(f"amqp://{login}:{self._amqp}/", f"http://{login}:{self._management}")

    @property
    def amqp_port(self) -> int:
        return self._amqp

    @property
    def distribution_port(self) -> int:
        """The port at which the other nodes of a cluster reach it."""
        return self._distribution

    @property
    def pid(self) -> int:
        """The pid of the broker's own process, for tests to kill."""
        return self._processes[-1].pid

    def start(self) -> None:
        self._write_configuration()
        env = self._environment()
        self._processes = []
        if self._runs_epmd:
            self._processes.append(start_epmd(self._server, self._epmd, self._log, env))
        self._processes.append(child.start([self._server], log=self._log, env=env))
        child.wait_until(
            self._answers, self._processes[-1], what="RabbitMQ", log=self._log, seconds=120
        )

    def has_written(self, queues: Iterable[str]) -> bool:
        """Return whether the node would still know these quorum queues, and its streams, if it were
        killed now. RabbitMQ 3.10 writes their names half a second late; a queue that it had not
        written exists after a restart but confirms nothing."""
        names = [queue.encode() for queue in (*queues, "rabbit_stream_coordinator")]
        # The queues' names are in `quorum`, the streams' in `coordination`.
        written = b"".join(
            each.read_bytes() for each in self._state.glob("mnesia/*/*/*/names.dets")
        )
        return all(name in written for name in names)

    def kill(self) -> None:
        """SIGKILL the broker, like a machine failure. `start` starts it again on the same ports."""
        child.stop(self._processes[-1], signal.SIGKILL, 30)
        self.stop(keep_data=False)

    def stop(self, *, keep_data: bool) -> None:
        for process in reversed(self._processes):
            child.stop(process, signal.SIGTERM if keep_data else signal.SIGKILL, 30)
        self._processes = []

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on the node and return its output."""
        control = str(self._server.with_name("rabbitmqctl"))
        command = [control, "--node", self.name, *arguments]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DevstackError(f"rabbitmqctl {arguments[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def _write_configuration(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        if self._cluster:
            # All nodes of a cluster have the same Erlang cookie.
            cookie = self._state / ".erlang.cookie"
            if not cookie.exists():
                cookie.write_text(self._password)
                cookie.chmod(0o400)
        self._configuration.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._amqp}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self._management}\n"
            "default_user = paybus\n"
            f"default_pass = {self._password}\n"
            "default_user_tags.administrator = true\n"
            "log.console = true\n"
            "log.console.level = warning\n"
            "log.file = false\n"
            "disk_free_limit.absolute = 50MB\n"
            + (
                f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {self._metrics}\n"
                if self._metrics
                else ""
            )
            # The first line as in deploy/k8s. The other nodes are started afterwards, and RabbitMQ
            # 4 would wait for them for a minute and a half.
            + (
                "cluster_partition_handling = pause_minority\n"
                "cluster_formation.discovery_retry_limit = 1\n"
                if self._cluster
                else ""
            )
            + "".join(
                f"cluster_formation.classic_config.nodes.{number} = {name}@localhost\n"
                for number, name in enumerate(self._cluster, 1)
            )
            + "".join(f"{line}\n" for line in self._more)
        )
        self._configuration.chmod(0o600)
        plugins = ["rabbitmq_management", *(["rabbitmq_prometheus"] if self._metrics else [])]
        (self._state / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")

    @property
    def _configuration(self) -> Path:
        return self._state / "rabbitmq.conf"

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            "HOME": str(self._state),  # location of the Erlang cookie
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._amqp),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self._state / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._state),
            "RABBITMQ_PID_FILE": str(self._state / "rabbitmq.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._state / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self._configuration),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"
            + (f" -kernel net_ticktime {self._silence}" if self._silence else ""),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # The start script then becomes the Erlang process: one pid to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _answers(self) -> bool:
        url = f"http://127.0.0.1:{self._management}/api/health/checks/port-listener/{self._amqp}"
        try:
            return httpx.get(url, auth=("paybus", self._password), timeout=2).is_success
        except httpx.TransportError:
            return False


@contextmanager
def broker_of_our_own(*, metrics_port: int | None = None) -> Iterator[PrivateNode | None]:
    """Run a node for the code inside the block, which may kill it or read its metrics; None where
    the environment names a broker, or this machine has none."""
    server = find_server()
    if server is None or "RABBITMQ_URL" in os.environ:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="paybus-broker-") as folder:
        node = PrivateNode(server, Path(folder), "own", metrics_port=metrics_port)
        node.start()
        os.environ["RABBITMQ_URL"] = node.address.url
        os.environ["RABBITMQ_MANAGEMENT_URL"] = node.address.management_url
        try:
            yield node
        finally:
            del os.environ["RABBITMQ_URL"], os.environ["RABBITMQ_MANAGEMENT_URL"]
            node.stop(keep_data=False)


def start_epmd(
    server: Path, port: int, log: Path, env: Mapping[str, str] | None = None
) -> Popen[bytes]:
    """Start our own epmd, in the foreground: a node would start one that outlives all processes."""
    beside = server.with_name("epmd")
    epmd = beside if beside.exists() else shutil.which("epmd") or "epmd"
    return child.start([epmd, "-port", str(port)], log=log, env=env)


def find_server() -> Path | None:
    """Return the RabbitMQ start script: PAYBUS_RABBITMQ_SERVER, or this machine's, or None."""
    if chosen := os.environ.get("PAYBUS_RABBITMQ_SERVER"):
        return Path(chosen)
    if _DEBIAN_SERVER.exists():
        return _DEBIAN_SERVER
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


def generation(server: Path) -> str:
    """Return a name for the data of this server's version, such as `rabbitmq_server-3.10.8`."""
    versioned = [part for part in server.resolve().parts if part.startswith("rabbitmq_server-")]
    return versioned[0] if versioned else f"rabbitmq-{server.resolve().parent.parent.name}"


def install_server() -> Path:
    """Install Debian's `rabbitmq-server`. Raises with one sentence if that is impossible."""
    debian.install(
        "rabbitmq-server",
        otherwise="RabbitMQ is missing: install `rabbitmq-server`, start Docker, or set "
        "RABBITMQ_URL and RABBITMQ_MANAGEMENT_URL to a broker of your own.",
    )
    server = find_server()
    if server is None:
        raise DevstackError("rabbitmq-server was installed, but its start script was not found.")
    return server
