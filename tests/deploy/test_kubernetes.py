"""The output of `kubectl kustomize` for every overlay: valid, hardened, complete for every service.

A service without probes, limits, a disruption budget, an autoscaler or a monitor fails here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from deploy.k8s import new_secrets

from common.contracts import topology
from devstack.addresses import DevstackError
from devstack.tools import tool
from support import secret_files

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir() if path.is_dir())
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
ROLES = ("api", "worker")
# They call providers (the gateway's api fetches Plaid's keys), the backend API, or exchange-rate
# sources.
_CALL_OUTSIDE = {
    *(f"{each}-{role}"
      for each in ("webhook-gateway", "subscription", "provisioning", "payouts", "bank-sync")
      for role in ROLES),
    "orders-worker",
}  # fmt: skip
# Custom resources, which Kubernetes' own schemas do not contain.
CUSTOM = frozenset({
    "rabbitmq.com/v1beta1/RabbitmqCluster",
    "cert-manager.io/v1/Certificate",
    "cert-manager.io/v1/Issuer",
    "postgresql.cnpg.io/v1/Cluster",
    "postgresql.cnpg.io/v1/Database",
    "postgresql.cnpg.io/v1/ScheduledBackup",
    "barmancloud.cnpg.io/v1/ObjectStore",
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


@cache
def definitions() -> Mapping[str, Any]:
    """Return schemas of the custom resources, from the YAML files in the folder that CRDS names:
    from the operators' releases or from a cluster (`kubectl get crd -o yaml`)."""
    folder = os.environ.get("CRDS")
    if not folder:
        pytest.skip("CRDS names no folder with the operators' CustomResourceDefinitions")
    found = {}
    for file in Path(folder).glob("*.yaml"):
        for document in yaml.safe_load_all(file.read_text()):
            for each in document.get("items", [document]):
                spec = each["spec"]
                for version in spec["versions"]:
                    kind = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
                    found[kind] = strict(version["schema"]["openAPIV3Schema"])
    return found


def strict(schema: Any) -> Any:
    """Convert to a JSON Schema that rejects unknown fields."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "kind" in made.get(
        "properties", {}
    )
    if isinstance(schema.get("properties"), dict) and "type" in schema and not open_ended:
        made.setdefault("additionalProperties", False)
    return made


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_an_operator_s_object_is_what_it_takes(overlay: str, kind: str) -> None:
    schema = definitions()[kind]
    for each in rendered(overlay):
        if f"{each['apiVersion']}/{each['kind']}" == kind:
            jsonschema.Draft202012Validator(schema).validate(each)


@processes
def test_a_process_is_hardened_limited_and_probed(overlay: str, name: str) -> None:
    pod = named(overlay, "Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [name.rpartition("-")[2]]
    # A gateway that has started answers 503 without a broker, which is better than "refused".
    is_gateway = name == "webhook-gateway-api"
    for probe, path in (
        ("startupProbe", "/readyz" if is_gateway else "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/healthz" if is_gateway else "/readyz"),
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
    assert 2 * float(data["SHUTDOWN_GRACE_SECONDS"]) + 5 < pod["terminationGracePeriodSeconds"]
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
    assert {"deny-all", "paybus"} <= policies
    assert bool({"outside", "outside-workers"} & policies) == (name in _CALL_OUTSIDE)
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


def referred_to(content: Any) -> Iterator[str]:
    """Yield the names of Secrets anywhere in an object."""
    if isinstance(content, list):
        for each in content:
            yield from referred_to(each)
    if isinstance(content, dict):
        for key, value in content.items():
            if key in {"secretRef", "passwordSecret", "externalSecret", "s3Credentials"}:
                yield from names_in(value)
            elif key == "secret" and "secretName" in value:
                yield value["secretName"]
            elif key == "sources":  # of a projected volume
                yield from (each["secret"]["name"] for each in value)
            elif key == "secretTargetRef":
                yield from (each["name"] for each in value)
            else:
                yield from referred_to(value)


def names_in(value: Mapping[str, Any]) -> Iterator[str]:
    if "name" in value:
        yield value["name"]
    else:
        yield from (each["name"] for each in value.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_secrets_that_are_referred_to_are_those_that_are_made(
    overlay: str, tmp_path: Path
) -> None:
    environment = {"BACKEND_TOKEN": "token", "BACKUP_KEY_ID": "id", "BACKUP_SECRET": "secret"}
    made = new_secrets.secrets(secret_files.write(tmp_path), environment)
    for each in made:
        kubernetes_validate.validate(each, VERSION, strict=True)
    names = {each["metadata"]["name"] for each in made}
    referred = {name for each in rendered(overlay) for name in referred_to(each)}
    # Created by cert-manager and CloudNativePG: https://cloudnative-pg.io/docs/current/certificates
    of_others = {each["spec"]["secretName"] for each in of_kind(overlay, "Certificate")}
    of_others.add("postgres-ca")
    assert referred <= names | of_others
    unused = {"dev": {"keda-rabbitmq", "postgres-backup"}, "staging": {"postgres-backup"}}
    assert names - referred == unused.get(overlay, set())


@processes
def test_a_process_trusts_broker_and_database_by_their_authorities_alone(
    overlay: str, name: str
) -> None:
    pod = named(overlay, "Deployment", name)["spec"]["template"]["spec"]
    (mounted,) = (v for v in pod["volumes"] if v["name"] == "authorities")
    items = [item for each in mounted["projected"]["sources"] for item in each["secret"]["items"]]
    assert {each["key"] for each in items} == {"ca.crt"}, "no key is mounted"
    assert {each["path"] for each in items} == {"rabbitmq.pem", "postgres.pem"}


def test_each_service_has_a_login_of_its_own_at_the_broker_by_tls(tmp_path: Path) -> None:
    made = new_secrets.secrets(secret_files.write(tmp_path), {"BACKEND_TOKEN": "token"})
    secrets = {each["metadata"]["name"]: each["stringData"] for each in made}
    imported = json.loads(secrets["rabbitmq-definitions"]["logins.json"])
    hashes = {each["name"]: b64decode(each["password_hash"]) for each in imported["users"]}
    for service in SERVICES:
        url = urlsplit(secrets[f"{service}-secrets"]["RABBITMQ_URL"])
        assert (url.scheme, url.port, url.username) == ("amqps", 5671, f"paybus-{service}")
        salt, digest = hashes[url.username or ""][:4], hashes[url.username or ""][4:]
        assert hashlib.sha256(salt + (url.password or "").encode()).digest() == digest
        assert "sslmode=verify-full" in secrets[f"{service}-secrets"]["DATABASE_URL"]
    administrators = [each["name"] for each in imported["users"] if "administrator" in each["tags"]]
    assert administrators == ["paybus"], "whom no process signs in as"


def test_all_pools_together_fit_into_the_database() -> None:
    """At the autoscalers' maximum; each worker's relay uses a further connection to listen."""
    connections = 0
    for service in SERVICES:
        text = (K8S / "services" / service / "settings.env").read_text()
        (size,) = re.findall(r"^DATABASE_POOL_SIZE=(\d+)$", text, re.MULTILINE)
        workers = named("production", "ScaledObject", f"{service}-worker")["spec"]
        connections += workers["maxReplicaCount"] * (int(size) + 1)
        if service != "webhook-gateway":  # its api has no database
            apis = named("production", "HorizontalPodAutoscaler", f"{service}-api")["spec"]
            connections += apis["maxReplicas"] * int(size)
    parameters = named("production", "Cluster", "postgres")["spec"]["postgresql"]["parameters"]
    assert connections * 1.25 <= int(parameters["max_connections"]), "a roll-out has more pods"


def test_the_database_is_backed_up() -> None:
    (plugin,) = named("production", "Cluster", "postgres")["spec"]["plugins"]
    assert plugin["isWALArchiver"]
    store = named("production", "ObjectStore", plugin["parameters"]["barmanObjectName"])
    assert store["spec"]["retentionPolicy"]
    backup = named("production", "ScheduledBackup", "postgres")["spec"]
    assert backup["pluginConfiguration"] == {"name": plugin["name"]}


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


def test_the_definitions_of_a_new_version_keep_the_passwords(tmp_path: Path) -> None:
    made = new_secrets.secrets(secret_files.write(tmp_path), {"BACKEND_TOKEN": "token"})
    secrets = {each["metadata"]["name"]: each["stringData"] for each in made}
    old = json.loads(secrets["rabbitmq-definitions"]["logins.json"])
    changed = copy.deepcopy(old)
    for each in changed["permissions"]:
        each["write"] = "^$"
    files = new_secrets.renewed(changed)
    assert files["topics.json"] == secrets["rabbitmq-definitions"]["topics.json"]
    renewed = json.loads(files["logins.json"])
    assert renewed["users"] == old["users"]
    ours = {each["user"]: each for each in renewed["permissions"]}
    for each in old["permissions"]:
        administers = each["user"] in {"paybus", "paybus-keda"}
        expected = each | {"write": "^$"} if administers else each
        assert ours[each["user"]] == expected
    changed["users"] = changed["users"][1:]
    with pytest.raises(new_secrets.Missing, match="no user of"):
        new_secrets.renewed(changed)


_UNITS = {"m": 0.001, "Mi": 2**20, "Gi": 2**30}


def _amount(quantity: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS.get(unit, 1)


def test_dev_fits_on_a_laptop() -> None:
    """Everything at once, migrations included: under a core, and 4 GiB."""
    specs = [each["spec"]["template"]["spec"] for each in of_kind("dev", "Deployment")]
    specs += [each["spec"]["template"]["spec"] for each in of_kind("dev", "Job")]
    parts = [container for spec in specs for container in spec["containers"]]
    parts += [named("dev", "RabbitmqCluster", "rabbitmq")["spec"]]
    parts += [named("dev", "Cluster", "postgres")["spec"]]
    requests = [each["resources"]["requests"] for each in parts]
    assert sum(_amount(str(each["cpu"])) for each in requests) <= 0.75
    assert sum(_amount(each["memory"]) for each in requests) <= 4 * 2**30


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_open_to_the_world_is_open_by_both_protocols(overlay: str) -> None:
    found = 0
    for policy in of_kind(overlay, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            blocks = [each["ipBlock"] for each in rule.get("to", ()) if "ipBlock" in each]
            open_to = {each["cidr"] for each in blocks}
            if "0.0.0.0/0" in open_to:
                found += 1
                assert "::/0" in open_to, policy["metadata"]["name"]
            private = [set(each.get("except", ())) for each in blocks]
            if any("10.0.0.0/8" in each for each in private):
                assert {"fc00::/7", "fe80::/10"} in private, "nor is IPv6's private space open"
    assert found == 4


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_asks_the_cluster_s_dns_or_the_node_s_cache(overlay: str) -> None:
    policy = named(overlay, "NetworkPolicy", "dns")["spec"]
    assert policy["podSelector"] == {}
    (rule,) = policy["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]
    assert {(each["port"], each["protocol"]) for each in rule["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
    }
