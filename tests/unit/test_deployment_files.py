"""The deployment files agree with the code."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.k8s import new_secrets
from pydantic_settings import BaseSettings

from bank_sync import settings as bank_sync
from devstack.addresses import DevstackError
from devstack.processes.system import Layout
from devstack.tokens import DevKeys
from devstack.tools import tool
from operations import settings as operations
from orders import settings as orders
from payouts import settings as payouts
from provisioning import settings as provisioning
from subscription import settings as subscription
from webhook_gateway import settings as gateway

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "k8s" / "services"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SETTINGS: dict[str, list[type[BaseSettings]]] = {
    "webhook-gateway": [gateway.ApiSettings, gateway.WorkerSettings],
    "subscription": [subscription.ApiSettings, subscription.WorkerSettings],
    "provisioning": [provisioning.ApiSettings, provisioning.WorkerSettings],
    "payouts": [payouts.ApiSettings, payouts.WorkerSettings],
    "bank-sync": [bank_sync.ApiSettings, bank_sync.WorkerSettings],
    "orders": [orders.ApiSettings, orders.WorkerSettings],
    "operations": [operations.ApiSettings, operations.WorkerSettings],
}


@pytest.fixture
def made_secrets(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Return the output of `make k8s-secrets` by name, made in a folder with its input files."""
    for name in ("endpoints", "accounts", "payout-accounts", "bank-accounts"):
        (tmp_path / f"{name}.toml").touch()
    DevKeys(tmp_path / "keys").jwks.rename(tmp_path / "jwks.json")
    environment = {"BACKEND_TOKEN": "token", "REDIS_URL": "redis://redis:6379/0"}
    found = new_secrets.secrets(tmp_path, environment)
    return {each["metadata"]["name"]: each["stringData"] for each in found}


def known(service: str) -> set[str]:
    return {name.upper() for model in SETTINGS[service] for name in model.model_fields}


def test_env_example_names_every_setting_and_no_other() -> None:
    text = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text, re.MULTILINE))
    assert named == set().union(*(known(service) for service in SETTINGS))


@pytest.mark.parametrize("service", SETTINGS)
def test_compose_sets_what_the_service_knows(service: str) -> None:
    processes = [each for name, each in COMPOSE["services"].items() if name.startswith(service)]
    assert processes
    for process in processes:
        assert set(process["environment"]) <= known(service)


def test_compose_takes_the_file() -> None:
    try:
        compose = tool("docker-compose")
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    file = str(ROOT / "docker-compose.yml")
    command = [str(compose), "-f", file, "--profile", "sandbox", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("service", SETTINGS)
def test_kubernetes_has_every_setting_and_no_other(service: str) -> None:
    text = (KUBERNETES / service / "settings.env").read_text()
    named = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text, re.MULTILINE)
    assert sorted(named) == sorted(known(service))


@pytest.mark.parametrize("service", SETTINGS)
def test_the_code_reads_what_kubernetes_sets(
    service: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made_secrets: dict[str, dict[str, str]],
) -> None:
    """Load settings with the output of `make k8s-secrets`: no secret is in a ConfigMap."""
    text = (KUBERNETES / service / "settings.env").read_text()
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    secrets = made_secrets[f"{service}-secrets"]
    assert not values.keys() & secrets.keys()
    assert set(re.findall(r"^# ([A-Z_]+)=  secret$", text, re.MULTILINE)) == secrets.keys()
    files = {name: value for name, value in values.items() if value.startswith("/run/paybus/")}
    assert {Path(each).name for each in files.values()} == made_secrets[f"{service}-files"].keys()
    mounted = {name: str(tmp_path / Path(value).name) for name, value in files.items()}
    for name, value in (values | mounted | secrets).items():
        monkeypatch.setenv(name, value)
    for model in SETTINGS[service]:
        model()


def test_what_cannot_be_made_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(new_secrets.Missing) as missing:
        new_secrets.secrets(tmp_path, {})
    for name in ("BACKEND_TOKEN", "endpoints.toml", "accounts.toml", "jwks.json"):
        assert name in str(missing.value)


def test_images_start_what_the_tests_start() -> None:
    """The image's entry point runs `python -m <package> <role>` for a service and a command."""
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert 'exec python -m \\"$(echo $SERVICE | tr - _)\\" \\"$@\\"' in dockerfile
    nowhere = Path("nowhere")
    layout = Layout(
        rabbitmq_url="amqp://",
        databases=dict.fromkeys(SETTINGS, "postgresql://"),
        ports=_Ports(),
        jwks=nowhere,
        endpoints=nowhere,
        accounts=nowhere,
        payout_accounts=nowhere,
        bank_accounts=nowhere,
        extra_env={},
    )
    for name, process in COMPOSE["services"].items():
        service = process.get("build", {}).get("args", {}).get("SERVICE")
        if service in SETTINGS:
            (role,) = process["command"]
            started = layout.migration(service) if role == "migrate" else layout.spec(name)
            module = service.replace("-", "_")
            assert (started.module, list(started.arguments)) == (module, [role])


class _Ports(dict[str, int]):
    def __missing__(self, _: str) -> int:
        return 1


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_compose_service_has_a_health_check_or_ends(name: str) -> None:
    service = COMPOSE["services"][name]
    in_image = "HEALTHCHECK" in (ROOT / "deploy/docker/Dockerfile").read_text()
    assert "healthcheck" in service or ("build" in service and in_image)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_compose_service_starts_again_after_a_crash(name: str) -> None:
    service = COMPOSE["services"][name]
    ends = service.get("command") == ["migrate"]
    assert service["restart"] == ("on-failure" if ends else "unless-stopped")


@pytest.mark.parametrize("service", SETTINGS)
def test_compose_waits_for_work_in_progress_as_kubernetes_does(service: str) -> None:
    for role in ("api", "worker"):
        deployment = yaml.safe_load(
            (ROOT / f"deploy/k8s/base/service/{role}.yaml").read_text().split("\n---")[0]
        )
        seconds = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for name, process in COMPOSE["services"].items():
            if name.startswith(service) and process["command"] == [role]:
                assert process["stop_grace_period"] == f"{seconds}s"
        (grace,) = {
            model.model_fields["shutdown_grace_seconds"].default for model in SETTINGS[service]
        }
        assert grace < seconds


def test_the_dockerfile_builds_every_service() -> None:
    built = {
        service["build"]["args"]["SERVICE"]
        for service in COMPOSE["services"].values()
        if "build" in service
    }
    assert built == {path.name for path in (ROOT / "services").iterdir()} | {"sandbox"}


def test_no_committed_file_names_an_address_to_download_from() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
