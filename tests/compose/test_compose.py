"""docker-compose.yml on a real Docker engine, as a user runs it (`make compose-test`).

One system for all tests, which run in this order: each goes on with what the one before left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from compose.images import docker, provide
from devstack.endpoints import SECRETS
from devstack.processes.stack import PAYBUS
from devstack.tokens import DevKeys
from devstack.webhook import signature, subscription_created
from support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GATEWAY = "http://127.0.0.1:8000"
SUBSCRIPTION = "http://127.0.0.1:8001"
PROVISIONING = "http://127.0.0.1:8002"
BACKEND = "http://127.0.0.1:8090"
PROMETHEUS = "http://127.0.0.1:9090"
ALERTMANAGER = "http://127.0.0.1:9093"

pytestmark = pytest.mark.timeout(1800)
_PATIENCE_SECONDS = 300.0  # a machine with two cores starts 24 containers
_WEBHOOKS = 60


class Compose:
    """The project of this test, beside a developer's own."""

    def __init__(self) -> None:
        self._arguments = ["compose", "--project-name", "paybus-test"]
        self._arguments += ["--file", str(ROOT / "docker-compose.yml"), "--profile", "sandbox"]
        self.absent: list[str] = []
        self.sent: list[str] = []
        self._token = DevKeys(PAYBUS / "keys").token("admin")

    def __call__(self, *arguments: str) -> str:
        return docker(*self._arguments, *arguments)

    def up(self, *arguments: str) -> None:
        names = [each for each in COMPOSE["services"] if each not in self.absent]
        self("up", "--detach", "--no-build", *arguments, *names)

    def states(self) -> dict[str, str]:
        """Return each container's health, or its state if it has no health check."""
        listed = self("ps", "--all", "--format", "json").splitlines()
        found = [json.loads(each) for each in listed]
        return {each["Name"]: each["Health"] or each["State"] for each in found}

    def container(self, service: str) -> str:
        return self("ps", "--quiet", service).splitlines()[0]

    def kill(self, service: str) -> None:
        """Kill the container's process from outside, as a crash or the kernel does it. What
        `docker kill` has killed, the engine does not start again."""
        pid = docker("inspect", "--format", "{{.State.Pid}}", self.container(service)).strip()
        killing = f"import os; os.kill({pid}, {int(signal.SIGKILL)})"
        with_all = ["--privileged", "--pid=host", "--user=0", "--entrypoint=python"]
        docker("run", "--rm", *with_all, "paybus/sandbox:dev", "-c", killing)

    def post(self) -> httpx.Response:
        """Send a new customer's webhook once. Raises `TransportError` where nothing answers."""
        number = uuid4().hex[:12]
        body = json.dumps(subscription_created(number)).encode()
        headers = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
        answer = httpx.post(f"{GATEWAY}/webhooks/stripe", content=body, headers=headers)
        if answer.status_code == httpx.codes.OK:
            self.sent.append(number)
        return answer

    def send(self) -> bool:
        """Send a webhook once; return whether it was accepted."""
        try:
            return self.post().status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def get(self, url: str, **query: str) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = httpx.get(url, params=query, headers=headers)
        answer.raise_for_status()
        return answer.json()

    def provisioned(self) -> int:
        database = ["psql", "--username=postgres", "--tuples-only", "--no-align", "provisioning"]
        query = "SELECT count(*) FROM integrations WHERE status = 'provisioned'"
        return int(self("exec", "--no-TTY", "postgres", *database, "--command", query))

    def until_all_are_provisioned(self) -> None:
        until(
            lambda: self.provisioned() == len(self.sent),
            what=f"{len(self.sent)} organizations",
            seconds=_PATIENCE_SECONDS,
            pause=2,
        )


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    compose = Compose()
    provide(f"python:{_python()}-slim")
    for name, service in COMPOSE["services"].items():
        image = service["image"]
        if not image.startswith("paybus/") and not provide(image):
            compose.absent.append(name)
    assert set(compose.absent) <= {"grafana"}
    compose("build", "--quiet")
    compose("down", "--volumes", "--timeout", "1")
    try:
        compose.up()
        yield compose
    finally:
        if os.environ.get("KEEP") != "1":
            compose("down", "--volumes", "--timeout", "1")


def _python() -> str:
    first = (ROOT / "deploy/docker/Dockerfile").read_text().partition("ARG PYTHON_VERSION=")[2]
    return first.splitlines()[0]


def test_every_container_is_healthy_and_migrations_have_ended(compose: Compose) -> None:
    def wrong() -> dict[str, str]:
        return {n: s for n, s in compose.states().items() if s not in {"healthy", "exited"}}

    until(lambda: not wrong(), what="all healthy", seconds=_PATIENCE_SECONDS, pause=2)
    exited = {name for name, state in compose.states().items() if state == "exited"}
    assert exited == {f"paybus-test-{each}-migrate-1" for each in _services()}


def _services() -> set[str]:
    return {each.name for each in (ROOT / "services").iterdir() if each.is_dir()}


def test_there_is_one_image_per_service(compose: Compose) -> None:
    listed = compose("config", "--images").split()
    ours = {each for each in listed if each.startswith("paybus")}
    assert ours == {f"paybus/{each}:dev" for each in (*_services(), "sandbox")}


def test_a_webhook_makes_an_organization(compose: Compose) -> None:
    done = subprocess.run(
        ["make", "--silent", "webhook", f"GATEWAY={GATEWAY}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"POST {GATEWAY}/webhooks/stripe: 200" in done.stdout
    number = done.stdout.partition("provider_subscription_id=sub_")[2].partition("'")[0]
    compose.sent.append(number)
    compose.until_all_are_provisioned()
    found = compose.get(
        f"{SUBSCRIPTION}/v1/subscriptions", provider_subscription_id=f"sub_{number}"
    )
    assert [each["status"] for each in found["items"]] == ["active"]


def test_no_alert_fires_when_all_is_well(compose: Compose) -> None:
    """Neither fires nor waits to fire, after each rule was evaluated for some minutes."""
    evaluated = "count_over_time(paybus:gateway_ready[1h])"

    def often() -> bool:
        found = compose.get(f"{PROMETHEUS}/api/v1/query", query=evaluated)["data"]["result"]
        return bool(found) and float(found[0]["value"][1]) >= 6

    until(often, what="six evaluations", seconds=600, pause=5)
    down = compose.get(f"{PROMETHEUS}/api/v1/query", query="up == 0")["data"]["result"]
    assert down == []
    alerts = compose.get(f"{PROMETHEUS}/api/v1/alerts")["data"]["alerts"]
    assert {each["labels"]["alertname"] for each in alerts} == set()
    assert compose.get(f"{ALERTMANAGER}/api/v2/alerts") == []


def test_workers_are_scaled(compose: Compose) -> None:
    compose.up("--scale", "subscription-worker=3")
    workers = [f"paybus-test-subscription-worker-{number}" for number in (1, 2, 3)]
    until(
        lambda: all(compose.states().get(each) == "healthy" for each in workers),
        what="three healthy workers",
        seconds=_PATIENCE_SECONDS,
        pause=2,
    )
    for _ in range(_WEBHOOKS):
        assert compose.send()
    compose.until_all_are_provisioned()


@pytest.mark.parametrize("service", ["rabbitmq", "postgres", "provisioning-worker"])
def test_what_is_killed_starts_again_and_nothing_is_lost(compose: Compose, service: str) -> None:
    before = compose.container(service)
    started = docker("inspect", "--format", "{{.State.StartedAt}}", before)
    goal = len(compose.sent) + _WEBHOOKS
    for _ in range(_WEBHOOKS // 2):
        compose.send()
    compose.kill(service)
    until(
        lambda: compose.send() and len(compose.sent) >= goal,
        what="webhooks are accepted again",
        seconds=_PATIENCE_SECONDS,
    )
    compose.until_all_are_provisioned()
    assert compose.container(service) == before, "the same container, started again"
    assert docker("inspect", "--format", "{{.State.StartedAt}}", before) != started
    books = compose.get(f"{BACKEND}/_books")
    assert set(books["created"].values()) == {1}, "an organization was created twice"
    assert len(books["created"]) == len(compose.sent)


def test_without_a_broker_callers_are_answered_503(compose: Compose) -> None:
    compose("stop", "--timeout", "30", "rabbitmq")
    try:
        until(lambda: not compose.send(), what="the gateway notices", pause=1)
        answer = compose.post()
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert int(answer.headers["Retry-After"]) > 0
    finally:
        compose("start", "rabbitmq")
    until(compose.send, what="webhooks are accepted again", seconds=_PATIENCE_SECONDS)
    compose.until_all_are_provisioned()


def test_down_and_up_again_with_work_under_way(compose: Compose) -> None:
    for _ in range(_WEBHOOKS):
        assert compose.send()
    compose("down")
    compose.up()
    until(compose.send, what="webhooks are accepted again", seconds=_PATIENCE_SECONDS)
    compose.until_all_are_provisioned()


def test_nothing_runs_as_root_or_may_become_it(compose: Compose) -> None:
    for name in compose.states():
        found = json.loads(docker("inspect", name))[0]
        config, host = found["Config"], found["HostConfig"]
        assert config["User"] not in {"", "0", "root"}, name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name
