"""What the deployment files say is what the code knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from bank_sync import settings as bank_sync
from operations import settings as operations
from orders import settings as orders
from payouts import settings as payouts
from provisioning import settings as provisioning
from subscription import settings as subscription
from webhook_gateway import settings as gateway

ROOT = Path(__file__).resolve().parents[2]
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
