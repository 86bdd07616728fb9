"""Paybus on a Kubernetes cluster: `make cluster-test KUBECONFIG=file`.

One deployment for all tests, which run in this order: each goes on with what the one before left.
The cluster keeps nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from cluster.cluster import (
    GATEWAY,
    INGRESS,
    NAMESPACE,
    PATIENCE_SECONDS,
    SERVICES,
    STRANGER,
    Cluster,
)
from support.waiting import until

pytestmark = pytest.mark.timeout(3600)
_BROKER = "app.kubernetes.io/name=rabbitmq"
_DATABASE = "cnpg.io/cluster=postgres"
_PATH = ("webhook-gateway-api", "subscription-worker", "provisioning-worker")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("name a cluster: make cluster-test KUBECONFIG=file")
    cluster = Cluster(os.environ.get("IMAGES", ""), os.environ.get("TAG", "dev"))
    assert cluster.namespaces() == [], "the cluster has these already: are they in use?"
    try:
        cluster.deploy()
        yield cluster
    finally:
        if os.environ.get("KEEP") != "1":
            cluster.remove()


def _ready(cluster: Cluster, deployment: str) -> int:
    (found,) = cluster.listed(
        "deployments", "--namespace", NAMESPACE, f"--field-selector=metadata.name={deployment}"
    )
    ready: int = found["status"].get("readyReplicas", 0)
    return ready


def _scale(cluster: Cluster, deployment: str, replicas: int) -> None:
    name = f"deployment/{deployment}"
    cluster("scale", name, "--namespace", NAMESPACE, f"--replicas={replicas}")
    until(
        lambda: _ready(cluster, deployment) == replicas,
        what=f"{replicas} of {deployment} are ready",
        seconds=PATIENCE_SECONDS,
        pause=2,
    )


def test_every_process_is_ready(cluster: Cluster) -> None:
    assert set(cluster.deployments()) == {
        f"{service}-{role}" for service in SERVICES for role in ("api", "worker")
    }
    for deployment in cluster.deployments():
        assert _ready(cluster, deployment) == 1, deployment


def test_a_webhook_makes_an_organization(cluster: Cluster) -> None:
    with cluster.load(rate=2) as refused:
        until(cluster.books, what="an organization", seconds=PATIENCE_SECONDS, pause=2)
    assert refused == {}
    cluster.until_each_has_its_organization()


def test_kubectl_scales_a_worker(cluster: Cluster) -> None:
    with cluster.load() as refused:
        _scale(cluster, "subscription-worker", 3)
    assert refused == {}
    cluster.until_each_has_its_organization()


def test_no_webhook_fails_in_a_roll_out(cluster: Cluster) -> None:
    before = set(cluster.pods())
    with cluster.load() as refused:
        for service in SERVICES:  # one after another: a small cluster starts two processes at once
            selector = f"app.kubernetes.io/name={service}"
            restart = ("rollout", "restart", "deployment", "--selector", selector)
            cluster(*restart, "--namespace", NAMESPACE)
            cluster.until_rolled_out()
    assert refused == {}
    until(lambda: before.isdisjoint(cluster.pods()), what="every pod is a new one", seconds=180)
    cluster.until_each_has_its_organization()


def test_no_webhook_fails_while_pods_are_evicted(cluster: Cluster) -> None:
    """As a drain evicts them: no more than the disruption budgets allow."""
    for deployment in _PATH:
        _scale(cluster, deployment, 2)
    waiting = _pods_of_path(cluster)
    with cluster.load() as refused:
        until(
            lambda: _evict(cluster, waiting) == 0,
            what="every pod is evicted",
            seconds=PATIENCE_SECONDS,
            pause=2,
        )
    assert refused == {}
    cluster.until_each_has_its_organization()


def _pods_of_path(cluster: Cluster) -> list[str]:
    return [each for each in cluster.pods() if each.startswith(_PATH)]


def _evict(cluster: Cluster, waiting: list[str]) -> int:
    """Ask for each pod's eviction; return how many are left."""
    for pod in list(waiting):
        if cluster.evict(pod):
            waiting.remove(pod)
    return len(waiting)


@pytest.mark.parametrize("selector", [_BROKER, _DATABASE, "app.kubernetes.io/component=worker"])
def test_nothing_is_lost_when_pods_are_killed(cluster: Cluster, selector: str) -> None:
    killed = cluster.pods(selector=selector)
    assert killed
    with cluster.load():
        at_once = ("--grace-period=0", "--force", "--wait=false")
        cluster("delete", "pod", "--namespace", NAMESPACE, *at_once, *killed)
        cluster.until_rolled_out()
    cluster.until_each_has_its_organization()


def test_the_network_is_open_where_it_must_be(cluster: Cluster) -> None:
    worker = f"deployment/{_PATH[1]}"
    assert cluster.connects(INGRESS, "caller", GATEWAY, 8000)
    for host, port in (("rabbitmq.paybus.svc", 5671), ("postgres-rw", 5432)):
        assert cluster.connects(NAMESPACE, worker, host, port), host
    assert cluster.connects(NAMESPACE, "deployment/provisioning-worker", "sandbox", 8090)


def _closed(cluster: Cluster) -> Sequence[tuple[str, str, str, int]]:
    """From where, by which pod, to where, which port."""
    everything = [
        ("webhook-gateway-api.paybus.svc", 8000),
        ("subscription-api.paybus.svc", 8000),
        ("rabbitmq.paybus.svc", 5671),
        ("rabbitmq.paybus.svc", 15672),
        ("postgres-rw.paybus.svc", 5432),
    ]
    stranger = cluster.address(STRANGER, "caller")
    return [
        *((STRANGER, "caller", host, port) for host, port in everything),
        *((INGRESS, "caller", host, port) for host, port in everything[1:]),
        (NAMESPACE, "deployment/orders-worker", stranger, 8000),
        (NAMESPACE, "deployment/orders-worker", "sandbox", 8090),
        (NAMESPACE, "deployment/subscription-worker", "rabbitmq.paybus.svc", 15672),
        (NAMESPACE, "deployment/subscription-worker", "kubernetes.default.svc", 443),
    ]


def test_the_network_is_closed_where_it_must_be(cluster: Cluster) -> None:
    if not _policies_are_enforced(cluster):
        pytest.skip("the network plug-in of this cluster enforces no network policies")
    open_ = [each for each in _closed(cluster) if cluster.connects(*each)]
    assert open_ == []


def _policies_are_enforced(cluster: Cluster) -> bool:
    """Try one that has nothing to do with Paybus."""
    policy = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: nothing, namespace: {STRANGER} }}
spec: {{ podSelector: {{}}, policyTypes: [Egress] }}
"""
    target = ("kubernetes.default.svc", 443)
    assert cluster.connects(STRANGER, "caller", *target), "before the policy"
    cluster("apply", "--filename", "-", stdin=policy)
    try:
        until(lambda: not cluster.connects(STRANGER, "caller", *target), what="it", seconds=30)
    except AssertionError:
        return False
    finally:
        cluster("delete", "--filename", "-", stdin=policy)
    return True
