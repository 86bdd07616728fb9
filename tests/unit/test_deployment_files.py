"""The deployment files agree with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.compose import new_secrets as server_secrets
from deploy.k8s import new_secrets
from pydantic_settings import BaseSettings

from bank_sync import settings as bank_sync
from devstack.addresses import DevstackError
from devstack.processes.system import Layout
from devstack.tools import tool
from operations import settings as operations
from orders import settings as orders
from payouts import settings as payouts
from provisioning import settings as provisioning
from subscription import settings as subscription
from support import secret_files
from webhook_gateway import settings as gateway

ROOT = Path(__file__).resolve().parents[2]
_DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
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
    secret_files.write(tmp_path)
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


def compose(*arguments: str, **environment: str) -> str:
    """Run Compose without an engine; return its output. It may neither fail nor warn."""
    try:
        program = tool("docker-compose")
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    command = [str(program), *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_compose_takes_the_file() -> None:
    file = str(ROOT / "docker-compose.yml")
    compose("-f", file, "--profile", "sandbox", "config", "--quiet")


PRODUCTION = ROOT / "deploy/compose/production.yml"


def production(config: Path) -> dict[str, Any]:
    """Return production.yml on top of docker-compose.yml, as Compose merges them."""
    files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(PRODUCTION)]
    example = str(ROOT / "deploy/compose/paybus.env.example")
    merged = compose("--env-file", example, *files, "config", PAYBUS_CONFIG=str(config))
    found: dict[str, Any] = yaml.safe_load(merged)["services"]
    return found


def test_on_one_server_nothing_is_of_development(tmp_path: Path) -> None:
    services = production(tmp_path)
    assert "development" not in yaml.safe_dump(services)
    assert not any(name.startswith("sandbox") for name in services)
    for name, service in services.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["mem_limit"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        if name != "proxy":
            assert {each["host_ip"] for each in service.get("ports", [])} <= {"127.0.0.1"}, name


@pytest.mark.parametrize("service", SETTINGS)
def test_on_one_server_each_process_finds_its_settings(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load settings with the output of `make server-secrets`."""
    files = tmp_path / "files"
    files.mkdir()
    config = tmp_path / "config"
    server_secrets.write(
        config, secret_files.write(files), tmp_path / "backups", {"BACKEND_TOKEN": "token"}
    )
    for role, model in zip(("api", "worker"), SETTINGS[service], strict=True):
        name = service if (service, role) == ("webhook-gateway", "api") else f"{service}-{role}"
        process = production(config)[name]
        assert {each["source"] for each in process["volumes"]} == {str(config / service)}
        with monkeypatch.context() as patched:
            for key, value in process["environment"].items():
                patched.setenv(key, value.replace("/run/paybus", str(config / service)))
            model()


def test_passwords_are_never_made_twice(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    secret_files.write(files)
    write = partial(
        server_secrets.write,
        tmp_path / "config",
        files,
        tmp_path / "backups",
        {"BACKEND_TOKEN": "token"},
    )
    write()
    with pytest.raises(new_secrets.Missing, match="has files already"):
        write()


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
    for name, content in made_secrets[f"{service}-files"].items():
        (tmp_path / name).write_text(content)
    for name, value in (values | mounted | secrets).items():
        monkeypatch.setenv(name, value)
    for model in SETTINGS[service]:
        model()


def test_what_cannot_be_made_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(new_secrets.Missing) as missing:
        new_secrets.secrets(tmp_path, {})
    for name in ("BACKEND_TOKEN", "endpoints.toml", "jwks.json"):
        assert name in str(missing.value)
    assert "accounts.toml" not in str(missing.value), "a service may have no accounts"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("endpoints.toml", "", "must have [[endpoint]] tables"),
        (
            "endpoints.toml",
            secret_files.ENDPOINT.replace("secrets", "# "),
            "stripe/default has no secret",
        ),
        ("accounts.toml", '[[account]]\nprovider = "x"\ntenant = "t"', "not a checkout provider"),
        ("payout-accounts.toml", '[[account]]\nprovider = "x"\ntenant = "t"', "not a payout prov"),
        ("bank-accounts.toml", '[[client]]\nprovider = "x"\ntenant = "t"', "of bank data"),
        ("jwks.json", '{"keys": []}', "no JSON Web Key Set"),
    ],
)
def test_what_a_service_would_refuse_makes_no_secret(
    tmp_path: Path, name: str, content: str, fault: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(new_secrets.Missing, match=re.escape(fault)) as missing:
        new_secrets.secrets(tmp_path, {"BACKEND_TOKEN": "token"})
    assert str(tmp_path / name) in str(missing.value)


def test_what_the_checks_log_is_no_part_of_the_secrets(tmp_path: Path) -> None:
    """A file that every user of the machine can change is a warning."""
    secret_files.write(tmp_path)
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(
        '[[account]]\nprovider = "fapshi"\ntenant = "t"\n'
        'options = { api_user = "me", api_key = "hunter22" }'
    )
    accounts.chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-m", "deploy.k8s.new_secrets", "--files", tmp_path],
        cwd=ROOT,
        env=os.environ | {"BACKEND_TOKEN": "token"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "accounts_file_world_writable" in done.stderr
    assert {each["kind"] for each in yaml.safe_load_all(done.stdout)} == {"Secret"}


def test_images_start_what_the_tests_start() -> None:
    """The image's entry point runs `python -m <package> <role>` for a service and a command."""
    assert 'exec python -m \\"$(echo $SERVICE | tr - _)\\" \\"$@\\"' in _DOCKERFILE
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
        service = process["image"].removeprefix("paybus/").removesuffix(":dev")
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
    in_image = "HEALTHCHECK" in _DOCKERFILE
    assert "healthcheck" in service or (service["image"].startswith("paybus/") and in_image)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_compose_service_starts_again_after_a_crash(name: str) -> None:
    service = COMPOSE["services"][name]
    ends = service.get("command") == ["migrate"]
    assert service["restart"] == ("on-failure:10" if ends else "unless-stopped")


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


def test_there_is_one_image_per_service_and_it_is_built_once() -> None:
    ours = [each for each in COMPOSE["services"].values() if each["image"].startswith("paybus/")]
    built = [each["image"] for each in ours if "build" in each]
    assert len(built) == len(set(built))
    assert set(built) == {each["image"] for each in ours}
    for each in ours:  # a registry may have images of that name, which are not ours
        assert each["pull_policy"] == ("build" if "build" in each else "never")


def test_an_image_s_dependencies_do_not_depend_on_another_service() -> None:
    """A changed byte in one service, or in common, reinstalls nothing in the other images."""
    stages = re.split(r"^FROM ", _DOCKERFILE, flags=re.MULTILINE)[1:]
    dependencies, code, image = stages
    assert re.findall(r"^COPY (?!--from)(\S+)", dependencies, re.MULTILINE) == [
        "requirements.lock",
        "libs/common/pyproject.toml",
        "${FOLDER}/pyproject.toml",
    ]
    copied = re.findall(r"^COPY (?!--from)(\S+)", code, re.MULTILINE)
    assert copied == ["libs/common", "${FOLDER}"]
    assert re.findall(r"^COPY --from=(\w+)", image, re.MULTILINE) == ["dependencies", "code"]
    for run in re.findall(r"^RUN (?:.*\\\n)*.*$", dependencies + code, re.MULTILINE):
        assert "--mount=type=cache" in run


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_compose_service_is_hardened_and_limited(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit"} <= service.keys()


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_is_given_what_it_reads_and_no_private_key(name: str) -> None:
    for volume in COMPOSE["services"][name].get("volumes", ()):
        if isinstance(volume, dict) and volume["source"].startswith("./.paybus"):
            assert volume["source"] == "./.paybus/keys/jwks.json"
            assert volume["read_only"] is True
            assert volume["bind"] == {"create_host_path": False}


def test_one_version_of_broker_and_database_is_named_and_each_image_by_its_patch() -> None:
    texts = "".join(
        (ROOT / each).read_text()
        for each in (
            "docker-compose.yml",
            "deploy/k8s/components/broker/rabbitmq.yaml",
            "deploy/k8s/components/database/postgres.yaml",
            "libs/devstack/src/devstack/servers/containers.py",
        )
    )
    brokers = set(re.findall(r"\brabbitmq:(\d+\.[\w.-]+)", texts))
    databases = set(re.findall(r"\bpostgres(?:ql)?:(\d+\.[\w.-]+)", texts))
    assert (len(brokers), len(databases)) == (1, 1), "the same everywhere"
    images = {each["image"] for each in COMPOSE["services"].values()}
    for image in (*images, f"rabbitmq:{brokers.pop()}", f"postgres:{databases.pop()}"):
        assert image.startswith("paybus/") or re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image)
    (python,) = re.findall(r"^ARG PYTHON_VERSION=(.*)$", _DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", python)


@pytest.mark.parametrize("service", SETTINGS)
@pytest.mark.parametrize("role", ["api", "worker"])
def test_compose_sets_all_that_a_process_cannot_do_without(service: str, role: str) -> None:
    model = SETTINGS[service][["api", "worker"].index(role)]
    required = {n.upper() for n, field in model.model_fields.items() if field.is_required()}
    name = service if (service, role) == ("webhook-gateway", "api") else f"{service}-{role}"
    assert required <= COMPOSE["services"][name]["environment"].keys()


def test_no_committed_file_names_an_address_to_download_from() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
