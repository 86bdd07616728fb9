"""deploy/compose/production.yml on a real Docker engine (`make compose-test`): one server with TLS,
secrets as files and backups, upgraded from the previous version under load, and back.

One system for all tests, which run in this order: each goes on with what the one before left.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from deploy.compose import new_secrets

from compose.images import docker, provide
from devstack.endpoints import SECRETS
from devstack.processes.stack import PAYBUS
from devstack.tokens import ISSUER, DevKeys
from devstack.webhook import signature, subscription_created
from support import backend_books, previous_version
from support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HOST = "localhost"  # Caddy issues the certificates of local names itself
PROJECT = "paybus-production-test"
SERVICES = sorted(each.name for each in (ROOT / "services").iterdir() if each.is_dir())
_NEW, _OLD = "dev", previous_version.VERSION
_PATIENCE_SECONDS = 300.0
_LOSE_EVERYTHING = "rm -rf /var/lib/postgresql/*"
_SANDBOX = """
services:
  sandbox-backend:
    profiles: !reset null
    image: paybus/sandbox:dev
    entrypoint: ["python", "-m", "sandbox.backend"]
    command: ["--host", "0.0.0.0", "--token", "development"]
"""
# 0.2.0 with the dependencies of this version. It reads secrets from the environment alone.
_DOCKERFILE = """
FROM paybus/{service}:dev
USER root
RUN rm -r /code/common /code/{package}
USER 10001
COPY libs/common/src/common /code/common
COPY services/{service}/src/{package} /code/{package}
COPY --chmod=0755 start-{service} /start
ENTRYPOINT ["/start"]
"""
_START = """#!/bin/sh
for file in /run/paybus/*_*; do
  export $(basename $file | tr a-z A-Z)="$(cat $file)"
done
exec python -m {package} "$@"
"""

pytestmark = pytest.mark.timeout(3600)


class Server:
    def __init__(self, folder: Path) -> None:
        self.config = folder / "config"
        self.backups = folder / "backups"
        self._folder = folder
        self.accepted: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PAYBUS_LISTEN": "127.0.0.1"}

    def __call__(self, *arguments: str) -> str:
        files = [ROOT / "docker-compose.yml", ROOT / "deploy/compose/production.yml"]
        command = ["docker", "compose", "--project-name", PROJECT]
        command += ["--env-file", str(self.config / "paybus.env")]
        for each in [*files, self._folder / "sandbox.yml"]:
            command += ["--file", str(each)]
        done = subprocess.run(
            [*command, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def configure(self) -> None:
        """As docs/guides/one-server.md describes."""
        files = self._folder / "files"
        files.mkdir(parents=True)
        shutil.copy(ROOT / "deploy/compose/endpoints.toml", files)
        for name in ("accounts", "payout-accounts", "bank-accounts"):  # 0.2.0 needs some
            shutil.copy(ROOT / f"{name}.example.toml", files / f"{name}.toml")
        shutil.copy(DevKeys(PAYBUS / "keys").jwks, files)
        new_secrets.write(self.config, files, self.backups, {"BACKEND_TOKEN": "development"})
        (self._folder / "sandbox.yml").write_text(_SANDBOX)
        (self.config / "paybus.env").write_text(
            f"PAYBUS_CONFIG={self.config}\nPAYBUS_BACKUPS={self.backups}\n"
            f"PAYBUS_TAG={_OLD}\nPAYBUS_HOST={HOST}\nAUTH_ISSUER={ISSUER}\n"
            "BACKEND_URL=http://sandbox-backend:8090\n"
        )

    def make(self, *target: str) -> str:
        command = ["make", "--silent", *target, f"CONFIG={self.config}"]
        environment = self.environment | {"COMPOSE_PROJECT_NAME": PROJECT}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def versions(self) -> set[str]:
        listed = [json.loads(each) for each in self("ps", "--format", "json").splitlines()]
        ours = [each["Image"] for each in listed if each["Image"].startswith("paybus/")]
        return {each.partition(":")[2] for each in ours if "sandbox" not in each}

    def allow_everything(self) -> None:
        """From 4.2.6 on, RabbitMQ does not answer a question of 0.2.0 to a login with limits."""
        for service in SERVICES:
            broker = ("exec", "--no-TTY", "rabbitmq", "rabbitmqctl")
            self(*broker, "set_permissions", f"paybus-{service}", ".*", ".*", ".*")
            self(*broker, "clear_topic_permissions", f"paybus-{service}")

    def sql(self, database: str, query: str) -> str:
        ask = ["psql", "--username=postgres", "--tuples-only", "--no-align", database]
        return self("exec", "--no-TTY", "postgres", *ask, "--command", query).strip()

    def created(self) -> dict[str, int]:
        books = self("exec", "--no-TTY", "sandbox-backend", *backend_books.READ)
        made: dict[str, int] = json.loads(books)["created"]
        return made

    def until_each_has_its_organization(self) -> None:
        backend_books.until_each_is_created(self.created, self.accepted, seconds=_PATIENCE_SECONDS)

    @contextmanager
    def load(self, rate: float = 5) -> Iterator[Counter[str]]:
        """Send `rate` webhooks a second through the proxy, each again until it is accepted."""
        refused: Counter[str] = Counter()
        stop = threading.Event()
        threads: list[threading.Thread] = []

        def send() -> None:
            number = uuid4().hex[:12]
            while (result := self._post(number)) != "200":
                refused[result] += 1
                time.sleep(0.5)
            self.accepted.append(number)

        def run() -> None:
            while not stop.wait(1 / rate):
                threads.append(threading.Thread(target=send))
                threads[-1].start()

        sender = threading.Thread(target=run)
        sender.start()
        try:
            yield refused
        finally:
            stop.set()
            sender.join()
            for each in threads:
                each.join()

    def _post(self, number: str) -> str:
        body = json.dumps(subscription_created(number)).encode()
        headers = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
        url = f"https://{HOST}/webhooks/stripe"
        try:
            answer = httpx.post(
                url, content=body, headers=headers, verify=_unverified(), timeout=90
            )
        except httpx.TransportError as error:
            return type(error).__name__
        return str(answer.status_code)


def _unverified() -> ssl.SSLContext:
    """The certificate is of an authority that Caddy made for this test."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if os.geteuid() != 0:
        pytest.skip("only root can give the files to the containers' users")
    folder = PAYBUS / "production-test"
    shutil.rmtree(folder, ignore_errors=True)
    server = Server(folder)
    server.configure()
    absent = _provide_images()
    names = [each for each in server("config", "--services").split() if each not in absent]
    server("down", "--volumes", "--timeout", "1")
    try:
        server("up", "--detach", "--no-build", *names)
        server.allow_everything()
        yield server
    finally:
        if os.environ.get("KEEP") != "1":
            server("down", "--volumes", "--timeout", "1")


def _provide_images() -> set[str]:
    """Build this version's images and 0.2.0's; return the services whose image can't be had."""
    assert provide(f"python:{_python()}-slim")
    development = ["compose", "--file", str(ROOT / "docker-compose.yml"), "--profile", "sandbox"]
    docker(*development, "build", "--quiet")
    source = previous_version.source()
    for service in SERVICES:
        package = service.replace("-", "_")
        file = source / f"{service}.Dockerfile"
        file.write_text(_DOCKERFILE.format(service=service, package=package))
        (source / f"start-{service}").write_text(_START.format(package=package))
        tag = f"paybus/{service}:{_OLD}"
        docker("build", "--quiet", "--tag", tag, "--file", str(file), str(source))
    servers = {
        "rabbitmq": "rabbitmq:4.3.6-management",
        "postgres": "postgres:18.6",
        "proxy": "caddy:2.10.2",
        "prometheus": "prom/prometheus:v3.7.3",
        "alertmanager": "prom/alertmanager:v0.28.1",
        "grafana": "grafana/grafana:12.3.0",
    }
    absent = {name for name, image in servers.items() if not provide(image)}
    assert absent <= {"grafana"}
    return absent


def _python() -> str:
    first = (ROOT / "deploy/docker/Dockerfile").read_text().partition("ARG PYTHON_VERSION=")[2]
    return first.splitlines()[0]


def test_a_webhook_through_the_proxy_makes_an_organization(server: Server) -> None:
    assert server.versions() == {_OLD}
    with server.load(rate=1) as refused:
        until(
            server.created,
            what="the first organization",
            seconds=_PATIENCE_SECONDS,
            pause=2,
        )
    assert set(refused) <= {"ConnectError", "503", "502"}, "while everything starts"
    server.until_each_has_its_organization()


def test_nothing_but_webhooks_is_reachable_from_outside(server: Server) -> None:
    for path in ("/", "/console", "/metrics", "/v1/payments", "/healthz"):
        answer = httpx.get(f"https://{HOST}{path}", verify=_unverified())
        assert answer.status_code == httpx.codes.NOT_FOUND, path
    listed = [json.loads(each) for each in server("ps", "--format", "json").splitlines()]
    for container in listed:
        for port in container["Publishers"] or []:
            outside = container["Service"] == "proxy"
            assert outside or port["URL"] in {"127.0.0.1", ""}, container["Service"]


def test_no_secret_is_in_a_containers_environment(server: Server) -> None:
    values = [
        path.read_text()
        for path in server.config.glob("*/*")
        if path.name in {"database_url", "rabbitmq_url", "encryption_keys", "password"}
    ]
    assert len(values) > len(SERVICES)
    inspected = docker("inspect", *server("ps", "--all", "--quiet").split())
    assert [value for value in values if value in inspected] == []


@pytest.mark.parametrize("step", ["up", "back", "up again"])
def test_no_webhook_fails_in_an_upgrade(server: Server, step: str) -> None:
    version = _OLD if step == "back" else _NEW
    if step == "back":
        server.allow_everything()
    with server.load() as refused:
        server.make("upgrade", f"TAG={version}", *(["BACK=1"] if step == "back" else []))
    assert refused == {}
    assert server.versions() == {version}
    assert f"PAYBUS_TAG={version}\n" in (server.config / "paybus.env").read_text()
    server.until_each_has_its_organization()


def test_a_backup_restores_what_was_committed(server: Server) -> None:
    """Everything up to the last archived segment, into an empty database."""
    server("exec", "--no-TTY", "backup", "sh", "/backup.sh", "once")
    with server.load() as refused:
        until(lambda: len(server.accepted) % 20 == 0, what="some more", pause=0.01)
    assert refused == {}
    server.until_each_has_its_organization()
    counted = "SELECT count(*) FROM integrations WHERE status = 'provisioned'"
    until(
        lambda: server.sql("provisioning", counted) == str(len(server.accepted)),
        what="all are committed",
    )
    server.sql("postgres", "SELECT pg_switch_wal()")
    segment = "SELECT last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1)"
    archived = f"{segment} FROM pg_stat_archiver"
    until(lambda: server.sql("postgres", archived) == "t", what="it is archived", seconds=120)
    server("stop", "--timeout", "5", "postgres")
    server("run", "--rm", "--no-deps", "--entrypoint", "sh", "postgres", "-c", _LOSE_EVERYTHING)
    printed = server.make("server-restore")
    assert "docs/runbooks/restore.md" in printed
    assert server.sql("provisioning", counted) == str(len(server.accepted))


def test_a_failing_backup_removes_no_other_one(server: Server) -> None:
    before = sorted(each.name for each in (server.backups / "base").iterdir())
    (server.backups / "base").chmod(0o500)
    with pytest.raises(AssertionError):
        server("exec", "--no-TTY", "backup", "sh", "/backup.sh", "once")
    (server.backups / "base").chmod(0o700)
    assert sorted(each.name for each in (server.backups / "base").iterdir()) == before
