"""What the deployment files say is what the code knows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from bank_sync import settings as bank_sync
from devstack.addresses import DevstackError
from devstack.endpoints import ENCRYPTION_KEY
from devstack.system import Layout
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


SECRETS = {
    "DATABASE_URL": "postgresql://u:p@postgres/x",
    "RABBITMQ_URL": "amqp://u:p@rabbitmq/",
    "REDIS_URL": "redis://redis/0",
    "ENCRYPTION_KEYS": ENCRYPTION_KEY,
    "BACKEND_TOKEN": "token",
}


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
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With secrets and files from elsewhere: none of them stands in a ConfigMap."""
    text = (KUBERNETES / service / "settings.env").read_text()
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert not values.keys() & SECRETS.keys()
    assert set(re.findall(r"^# ([A-Z_]+)=  secret$", text, re.MULTILINE)) <= SECRETS.keys()
    for name in [name for name in values if name.endswith("_FILE")]:
        file = tmp_path / name
        file.touch()
        values[name] = str(file)
    if "AUTH_JWKS_FILE" in values:
        values["AUTH_JWKS_FILE"] = str(DevKeys(tmp_path / "keys").jwks)
    for name, value in (values | SECRETS).items():
        monkeypatch.setenv(name, value)
    for model in SETTINGS[service]:
        model()


def test_images_start_what_the_tests_start() -> None:
    """The image's entry point makes `python -m <package> <role>` of a service and a command."""
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


def test_the_dockerfile_builds_every_service() -> None:
    built = {
        service["build"]["args"]["SERVICE"]
        for service in COMPOSE["services"].values()
        if "build" in service
    }
    assert built == {path.name for path in (ROOT / "services").iterdir()} | {"sandbox"}


def test_no_committed_file_names_an_address_to_download_from() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
