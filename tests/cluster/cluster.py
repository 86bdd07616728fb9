"""A Kubernetes cluster: Paybus deployed on it by kubectl, and taken away again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

import trustme
import yaml
from deploy.k8s import new_secrets

from devstack.endpoints import SECRETS
from devstack.processes.stack import PAYBUS
from devstack.processes.supervisor import say
from devstack.tokens import ISSUER, DevKeys
from devstack.tools import tool
from devstack.webhook import subscription_created
from support import backend_books

ROOT: Final = Path(__file__).resolve().parents[2]
_HERE: Final = Path(__file__).parent
SERVICES: Final = sorted(each.name for each in (ROOT / "services").iterdir() if each.is_dir())
NAMESPACE: Final = "paybus"
INGRESS: Final = "paybus-test-ingress"
STRANGER: Final = "paybus-test-stranger"
GATEWAY: Final = "webhook-gateway-api.paybus.svc"
OURS: Final = "app.kubernetes.io/part-of=paybus"
_MIGRATE: Final = "app.kubernetes.io/component=migrate"
_SERVERS: Final = "app.kubernetes.io/component notin (api,worker,migrate)"
_OPERATORS: Final = {
    "rabbitmqclusters.rabbitmq.com",
    "clusters.postgresql.cnpg.io",
    "certificates.cert-manager.io",
}
# What the tests wait for at most: a small machine pulls images and starts 17 pods.
PATIENCE_SECONDS: Final = 900.0

Object = Mapping[str, Any]


class Cluster:
    """What KUBECONFIG names. `images` is put before an image's name, `tag` is our images' tag."""

    def __init__(self, images: str, tag: str) -> None:
        self._images, self._tag = images, tag
        self._kubectl = str(tool("kubectl"))
        self._folder = PAYBUS / "cluster"
        self.accepted: list[str] = []

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; return its output. Raises `AssertionError` with what it printed."""
        done = self.attempt(*arguments, stdin=stdin)
        assert done.returncode == 0, (
            f"kubectl {' '.join(arguments[:8])}: {done.stdout}{done.stderr}"
        )
        return done.stdout

    def attempt(
        self, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [self._kubectl, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def listed(self, kind: str, *arguments: str) -> Sequence[Object]:
        found: Mapping[str, Any] = json.loads(self("get", kind, "--output=json", *arguments))
        items: Sequence[Object] = found["items"]
        return items

    @property
    def has_operators(self) -> bool:
        return {each["metadata"]["name"] for each in self.listed("crd")} >= _OPERATORS

    def namespaces(self) -> Sequence[str]:
        """Return those of Paybus and of this test that exist."""
        found = {each["metadata"]["name"] for each in self.listed("namespaces")}
        return sorted(found & {NAMESPACE, INGRESS, STRANGER})

    def deploy(self) -> None:
        """Apply everything in the order of `make k8s-deploy`, with new Secrets."""
        try:
            self._deploy()
        except BaseException:
            say(self("get", "pods", "--namespace", NAMESPACE, "--output=wide"))
            raise

    def remove(self) -> None:
        """Remove everything that `deploy` has made."""
        names = (NAMESPACE, INGRESS, STRANGER)
        self("delete", "namespace", "--ignore-not-found", "--timeout=600s", *names)

    def _deploy(self) -> None:
        self("apply", "--filename", str(ROOT / "deploy/k8s/base/namespace.yaml"))
        self("create", "--filename", "-", stdin=yaml.safe_dump_all(self._secrets()))
        folder = str(self._kustomization())
        self("apply", "--kustomize", folder, "--selector", _SERVERS)
        self._wait_for_servers()
        self("apply", "--kustomize", folder, "--selector", _MIGRATE)
        wait = ("--namespace", NAMESPACE, "--for=condition=complete")
        self("wait", "job", "--selector", _MIGRATE, *wait, "--timeout=900s")
        self("apply", "--kustomize", folder)
        self.until_rolled_out()

    def _wait_for_servers(self) -> None:
        of_ours = ("--namespace", NAMESPACE, "--timeout=900s")
        if self.has_operators:
            self("wait", "clusters.postgresql.cnpg.io/postgres", "--for=condition=Ready", *of_ours)
            nodes = "rabbitmqclusters.rabbitmq.com/rabbitmq"
            self("wait", nodes, "--for=condition=AllReplicasReady", *of_ours)
            return
        for server in ("statefulset/rabbitmq-server", "statefulset/postgres", "deployment/sandbox"):
            self("rollout", "status", server, *of_ours)

    def until_rolled_out(self) -> None:
        of_ours = ("--namespace", NAMESPACE, f"--timeout={PATIENCE_SECONDS:.0f}s")
        for deployment in self.deployments():
            self("rollout", "status", f"deployment/{deployment}", *of_ours)

    def deployments(self) -> Sequence[str]:
        found = self.listed("deployments", "--namespace", NAMESPACE, "--selector", OURS)
        return [each["metadata"]["name"] for each in found]

    def pods(self, *, selector: str = OURS) -> Sequence[str]:
        """Return the names of the pods that run, without those that are being deleted."""
        running = ("--field-selector=status.phase=Running", "--selector", selector)
        found = self.listed("pods", "--namespace", NAMESPACE, *running)
        alive = [each["metadata"] for each in found if "deletionTimestamp" not in each["metadata"]]
        return [each["name"] for each in alive]

    def evict(self, pod: str) -> bool:
        """Ask for the pod's eviction, as `kubectl drain` does; return whether it was granted."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": NAMESPACE},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        done = self.attempt("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))
        assert done.returncode == 0 or "disruption budget" in done.stderr, done.stderr
        return done.returncode == 0

    def connects(self, namespace: str, pod: str, host: str, port: int) -> bool:
        """Return whether a process in the pod can open a connection."""
        code = f"import socket; socket.create_connection(({host!r}, {port}), timeout=5)"
        command = ("--namespace", namespace, pod, "--", "python", "-c", code)
        done = self.attempt("exec", *command)
        assert done.returncode in {0, 1}, done.stderr
        return done.returncode == 0

    def address(self, namespace: str, pod: str) -> str:
        return self(
            "get", "pod", pod, "--namespace", namespace, "--output=jsonpath={.status.podIP}"
        )

    def books(self) -> Mapping[str, int]:
        """Return how often the back end has created each organization."""
        sandbox = ("--namespace", NAMESPACE, "deployment/sandbox")
        books = json.loads(self("exec", *sandbox, "--", *backend_books.READ))
        created: Mapping[str, int] = books["created"]
        return created

    def until_each_has_its_organization(self) -> None:
        backend_books.until_each_is_created(self.books, self.accepted, seconds=PATIENCE_SECONDS)

    @contextmanager
    def load(self, rate: float = 10) -> Iterator[dict[str, int]]:
        """Send `rate` webhooks a second meanwhile. The dictionary yielded has afterwards how often
        one of them was refused, by reason."""
        event = json.dumps(subscription_created("NUMBER"))
        program = (_HERE / "load.py").read_text()
        command = ["exec", "--stdin", "--namespace", INGRESS, "caller", "--"]
        command += ["python", "-c", program, GATEWAY, SECRETS["stripe"], str(rate), event]
        sender = subprocess.Popen(
            [self._kubectl, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        refused: dict[str, int] = {}
        try:
            yield refused
        except BaseException:
            sender.kill()
            sender.wait()
            raise
        output, errors = sender.communicate(timeout=PATIENCE_SECONDS)
        assert sender.returncode == 0, errors
        result = json.loads(output)
        self.accepted += result["accepted"]
        refused |= result["refused"]

    def _secrets(self) -> Iterator[Object]:
        """Those of `make k8s-secrets`; without the operators, also what these would make."""
        files = self._folder / "files"
        files.mkdir(parents=True, exist_ok=True)
        (files / "endpoints.toml").write_text((ROOT / "deploy/compose/endpoints.toml").read_text())
        (files / "jwks.json").write_text(DevKeys(PAYBUS / "keys").jwks.read_text())
        made = new_secrets.secrets(files, os.environ | {"BACKEND_TOKEN": "development"})
        yield from made
        if self.has_operators:
            return
        authority = trustme.CA()
        ca = authority.cert_pem.bytes().decode()
        yield _secret("postgres-ca", {"ca.crt": ca})
        for name, host in (
            ("rabbitmq-tls", "rabbitmq.paybus.svc"),
            ("postgres-tls", "postgres-rw"),
        ):
            issued = authority.issue_cert(host)
            chain = "".join(each.bytes().decode() for each in issued.cert_chain_pems)
            key = issued.private_key_pem.bytes().decode()
            yield _secret(name, {"ca.crt": ca, "tls.crt": chain, "tls.key": key})
        yield _secret("postgres-databases", _databases(made))

    def _kustomization(self) -> Path:
        """Write one in a folder of its own; return the folder."""
        relative = Path(os.path.relpath(ROOT, self._folder))
        overlay, components, files = "overlays/dev", [], ["surroundings.yaml"]
        if not self.has_operators:
            overlay, components = "base", ["components/small"]
            files.append("servers.yaml")
        for name in files:
            (self._folder / name).write_text((_HERE / name).read_text())
        made = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [str(relative / "deploy/k8s" / overlay), *files],
            "components": [str(relative / "deploy/k8s" / each) for each in components],
            "images": [*self._our_images(), *self._servers_images()],
            "configMapGenerator": [
                {"name": f"{each}-settings", "behavior": "merge", "literals": literals}
                for each, literals in _settings().items()
            ],
        }
        (self._folder / "kustomization.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
        return self._folder

    def _our_images(self) -> Iterator[Object]:
        for service in (*SERVICES, "sandbox"):
            name = f"paybus/{service}"
            yield {"name": name, "newName": f"{self._images}{name}", "newTag": self._tag}

    def _servers_images(self) -> Iterator[Object]:
        """The versions that docker-compose.yml has."""
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        for name in ("rabbitmq", "postgres"):
            image, _, tag = compose[name]["image"].partition(":")
            yield {"name": name, "newName": image, "newTag": tag}


def _secret(name: str, content: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": dict(content),
    }


def _databases(secrets: Sequence[Object]) -> Mapping[str, str]:
    """The passwords that services have been given, as a script for the database's first start."""
    logins = [
        each["stringData"]
        for each in secrets
        if each["metadata"]["name"].startswith("postgres-") and "username" in each["stringData"]
    ]
    return {"databases.sql": new_secrets.databases(logins), "password": token_urlsafe(24)}


def _settings() -> Mapping[str, Sequence[str]]:
    issuer = [f"AUTH_ISSUER={ISSUER}"]
    made = {each: list(issuer) for each in SERVICES if each != "webhook-gateway"}
    made["provisioning"].append("BACKEND_URL=http://sandbox:8090")
    return made
