"""What `kubectl kustomize` makes of every overlay: valid, hardened, and complete for every service.

A service without probes, limits, a disruption budget, an autoscaler or a monitor fails here.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common.contracts import topology
from devstack.addresses import DevstackError
from devstack.tools import tool

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir() if path.is_dir())
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
ROLES = ("api", "worker")
# Operators' kinds, which Kubernetes' own schemas do not have.
CUSTOM = frozenset({
    "rabbitmq.com/v1beta1/RabbitmqCluster",
    "postgresql.cnpg.io/v1/Cluster",
    "postgresql.cnpg.io/v1/Database",
    "keda.sh/v1alpha1/ScaledObject",
    "keda.sh/v1alpha1/TriggerAuthentication",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
})  # fmt: skip
VERSION = "1.32.0"

Object = Mapping[str, Any]


@cache
def rendered(overlay: str) -> list[Object]:
    try:
        kubectl = tool("kubectl")
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    done = subprocess.run(
        [str(kubectl), "kustomize", str(K8S / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> Iterator[Object]:
    return (each for each in rendered(overlay) if each["kind"] == kind)


def named(overlay: str, kind: str, name: str) -> Object:
    found = [each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name]
    assert found, f"{overlay} has no {kind} {name}"
    return found[0]


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        each["key"] in labels and labels[each["key"]] in each.get("values", [labels[each["key"]]])
        for each in selector.get("matchExpressions", ())
    )


def labels_of(deployment: Object) -> Mapping[str, str]:
    labels: Mapping[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return labels


processes = pytest.mark.parametrize(
    ("overlay", "name"),
    [(o, f"{s}-{r}") for o in OVERLAYS for s in SERVICES for r in ROLES],
)
autoscaled = pytest.mark.parametrize("overlay", ["staging", "production"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid(overlay: str) -> None:
    custom = set()
    for each in rendered(overlay):
        kind = f"{each['apiVersion']}/{each['kind']}"
        if kind in CUSTOM:
            custom.add(kind)
        else:
            kubernetes_validate.validate(each, VERSION, strict=True)
    assert custom, "the operators' kinds are there"


@processes
def test_a_process_is_hardened_limited_and_probed(overlay: str, name: str) -> None:
    pod = named(overlay, "Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [name.rpartition("-")[2]]
    for probe, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    keys = {each["topologyKey"] for each in pod["topologySpreadConstraints"]}
    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


@processes
def test_a_process_has_time_to_finish_its_work(overlay: str, name: str) -> None:
    deployment = named(overlay, "Deployment", name)
    pod = deployment["spec"]["template"]["spec"]
    settings = next(each for each in pod["containers"][0]["envFrom"] if "configMapRef" in each)
    data = named(overlay, "ConfigMap", settings["configMapRef"]["name"])["data"]
    assert 2 * float(data["DRAIN_SECONDS"]) + 5 < pod["terminationGracePeriodSeconds"]
    assert "replicas" not in deployment["spec"], "an apply must not undo what scaled it"
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@processes
def test_a_process_may_be_drained_one_by_one(overlay: str, name: str) -> None:
    labels = labels_of(named(overlay, "Deployment", name))
    budgets = [
        each
        for each in of_kind(overlay, "PodDisruptionBudget")
        if selects(each["spec"]["selector"], labels)
    ]
    assert [each["spec"]["maxUnavailable"] for each in budgets] == [1]


@processes
def test_a_process_reaches_and_is_reached_by_whom_it_must(overlay: str, name: str) -> None:
    labels = labels_of(named(overlay, "Deployment", name))
    policies = {
        each["metadata"]["name"]
        for each in of_kind(overlay, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels)
    }
    assert {"deny-all", "paybus", "outside"} <= policies
    assert ("webhooks" in policies) == (name == "webhook-gateway-api"), "the one door from outside"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_gateway_is_served_outside(overlay: str) -> None:
    for ingress in of_kind(overlay, "Ingress"):
        assert ingress["spec"]["tls"]
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"]["name"] == "webhook-gateway-api"
                assert path["path"] == "/webhooks/"


@autoscaled
@pytest.mark.parametrize("service", SERVICES)
def test_a_worker_is_scaled_by_each_of_its_queues(overlay: str, service: str) -> None:
    scaled = named(overlay, "ScaledObject", f"{service}-worker")["spec"]
    assert scaled["scaleTargetRef"] == {"name": f"{service}-worker"}
    assert scaled["minReplicaCount"] >= 2, "its schedule and its relay run there, too"
    metadata = [each["metadata"] for each in scaled["triggers"]]
    owned = {q.name for q in topology.QUEUES if q.name.startswith(f"{service}.")}
    assert {each["queueName"] for each in metadata} == owned
    assert {each["protocol"] for each in metadata} == {"http"}


@autoscaled
@pytest.mark.parametrize("service", SERVICES)
def test_an_api_is_scaled(overlay: str, service: str) -> None:
    scaled = named(overlay, "HorizontalPodAutoscaler", f"{service}-api")["spec"]
    assert scaled["scaleTargetRef"]["name"] == f"{service}-api"
    assert scaled["minReplicas"] >= 2


@autoscaled
@pytest.mark.parametrize("name", [f"{s}-{r}" for s in SERVICES for r in ROLES])
def test_a_process_is_monitored(overlay: str, name: str) -> None:
    labels = labels_of(named(overlay, "Deployment", name))
    monitors = [
        each for each in of_kind(overlay, "PodMonitor") if selects(each["spec"]["selector"], labels)
    ]
    assert len(monitors) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", SERVICES)
def test_migrations_run_as_a_job(overlay: str, service: str) -> None:
    job = named(overlay, "Job", f"{service}-migrate")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["migrate"]
    images = {
        named(overlay, "Deployment", f"{service}-{role}")["spec"]["template"]["spec"]["containers"][
            0
        ]["image"]
        for role in ROLES
    }
    assert images == {container["image"]}


def test_all_pools_together_fit_into_the_database() -> None:
    """At the most that the autoscalers allow; a worker's relay listens by a further connection."""
    connections = 0
    for service in SERVICES:
        text = (K8S / "services" / service / "settings.env").read_text()
        (size,) = re.findall(r"^DATABASE_POOL_SIZE=(\d+)$", text, re.MULTILINE)
        workers = named("production", "ScaledObject", f"{service}-worker")["spec"]
        connections += workers["maxReplicaCount"] * (int(size) + 1)
        if service != "webhook-gateway":  # whose api has no database
            apis = named("production", "HorizontalPodAutoscaler", f"{service}-api")["spec"]
            connections += apis["maxReplicas"] * int(size)
    parameters = named("production", "Cluster", "postgres")["spec"]["postgresql"]["parameters"]
    assert connections * 1.25 <= int(parameters["max_connections"]), "a roll-out has more pods"


def test_broker_and_database_survive_a_node() -> None:
    broker = named("production", "RabbitmqCluster", "rabbitmq")["spec"]
    assert (broker["replicas"], "pause_minority" in broker["rabbitmq"]["additionalConfig"]) == (
        3,
        True,
    )
    database = named("production", "Cluster", "postgres")["spec"]
    synchronous = database["postgresql"]["synchronous"]
    assert (database["instances"], synchronous["dataDurability"]) == (3, "required")
    parameters = database["postgresql"]["parameters"]
    assert (parameters["fsync"], parameters["synchronous_commit"]) == ("on", "on")
    owners = {each["spec"]["owner"] for each in of_kind("production", "Database")}
    roles = {each["name"] for each in database["managed"]["roles"]}
    assert owners == roles == {each.replace("-", "_") for each in SERVICES}
