"""Broker, database and Redis over TLS with a private authority, as in docs/guides/deploy.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import pytest
import trustme
from pydantic import SecretStr

from common.resilience.cache import Cache
from devstack.addresses import Addresses, free_ports
from devstack.processes.stack import Stack
from devstack.servers import postgres, redis
from devstack.servers.postgres import Postgres
from devstack.servers.rabbitmq import PrivateNode, find_server
from devstack.servers.redis import PrivateRedis
from devstack.tokens import DevKeys
from support.organizations import end_subscription
from support.paybus import Paybus, Templates, running
from support.slow_link import slow_link
from support.waiting import until, until_async

_PASSWORD = "tls"
_PROCESSES = ("webhook-gateway", "subscription-worker", "subscription-api")


@dataclass(frozen=True)
class Secured:
    """Private servers. Their certificates are for `localhost`, issued by an authority whose own
    certificate is in `ca`."""

    stack: Stack
    ca: Path
    amqps_port: int
    redis_port: int

    def environment(
        self, paybus: Paybus, *, ca: Path | None = None, host: str = "localhost"
    ) -> dict[str, str]:
        """Return the settings of an operator for the subscription service and the gateway."""
        ca = ca or self.ca
        database = paybus.layout.databases["subscription"]
        login = self.stack.addresses.rabbitmq.url.partition("//")[2].partition("@")[0]
        return {
            "RABBITMQ_URL": f"amqps://{login}@{host}:{self.amqps_port}/{paybus.virtual_host}"
            f"?cafile={ca}",
            "DATABASE_URL": database.replace("127.0.0.1", host)
            + f"?sslmode=verify-full&sslrootcert={ca}",
            "REDIS_URL": f"rediss://{host}:{self.redis_port}/0?ssl_ca_certs={ca}",
        }


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    if (server := find_server()) is None:
        pytest.skip("needs a RabbitMQ on this machine")
    with ExitStack() as exit_:
        folder = Path(exit_.enter_context(TemporaryDirectory(prefix="paybus-tls-")))
        folder.chmod(0o711)  # PostgreSQL started by root runs as another user
        yield _secure(server, folder, exit_)


def _secure(server: Path, folder: Path, exit_: ExitStack) -> Secured:
    authority = trustme.CA()
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    certificate = authority.issue_cert("localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    amqps, database, tls = free_ports(3)
    node = PrivateNode(
        server,
        folder / "rabbitmq",
        _PASSWORD,
        configuration=[
            f"listeners.ssl.1 = 127.0.0.1:{amqps}",
            f"ssl_options.certfile = {chain}",
            f"ssl_options.keyfile = {key}",
        ],
    )
    exit_.callback(lambda: node.stop(keep_data=False))
    node.start()
    its_database = Postgres(
        folder / "postgres", database, _PASSWORD, programs=postgres.debian_programs()
    )
    its_database.use_tls(chain.read_bytes(), key.read_bytes())
    exit_.callback(lambda: its_database.stop(keep_data=False))
    its_database.start()
    its_redis = PrivateRedis(
        redis.debian_server(),
        folder,
        *("--tls-port", str(tls), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(chain), "--tls-key-file", str(key)),
    )
    exit_.callback(its_redis.stop)
    its_redis.start()
    stack = Stack(servers=Addresses(node.address, its_database.url))
    return Secured(exit_.enter_context(stack), ca, amqps, tls)


@pytest.fixture(scope="module")
def paybus(secured: Secured, keys: DevKeys, logs: Path) -> Iterator[Paybus]:
    templates = Templates(secured.stack, keys, logs, secured.stack.state)
    with running(secured.stack, templates, keys, logs, []) as paybus:
        yield paybus


def start(paybus: Paybus, environment: dict[str, str]) -> None:
    specs = [paybus.layout.spec(name, replica=0, **environment) for name in _PROCESSES]
    started = [paybus.system.start_one(spec) for spec in specs]
    for process in started:
        process.wait_ready()


def status(url: str | None) -> int | None:
    """Return the HTTP status; None while nothing listens."""
    with suppress(httpx.ConnectError):
        return httpx.get(url or "").status_code
    return None


def entitled(paybus: Paybus, customer: str) -> bool | None:
    answer = paybus.api("GET", "subscription", f"/v1/entitlements/{customer}")
    return answer.json()["entitled"] if answer.is_success else None


def test_a_webhook_has_its_effect_with_every_server_reached_by_tls(
    secured: Secured, paybus: Paybus
) -> None:
    start(paybus, secured.environment(paybus))
    number = paybus.subscribe()
    until(lambda: entitled(paybus, f"cus_{number}"), what="the customer is entitled")
    end_subscription(paybus, number)
    until(lambda: entitled(paybus, f"cus_{number}") is False, what="nothing is left")
    assert paybus.metric("subscription-api", "paybus_cache_requests_total", outcome="hit")
    assert not paybus.metric("subscription-api", "paybus_cache_requests_total", outcome="away")
    connections = paybus.sql(
        "subscription",
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert connections == [(True,)], "those for LISTEN and for jobs, too"


@pytest.mark.parametrize("server", ["RABBITMQ_URL", "DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("wrong", ["authority", "host"])
def test_a_server_whose_certificate_is_not_vouched_for_is_not_spoken_to(
    secured: Secured, paybus: Paybus, tmp_path: Path, server: str, wrong: str
) -> None:
    good = secured.environment(paybus)
    if wrong == "authority":
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(other)
        bad = secured.environment(paybus, ca=other)
    else:
        bad = secured.environment(paybus, host="127.0.0.1")
    name = "subscription-api" if server == "REDIS_URL" else "subscription-worker"
    spec = paybus.layout.spec(name, replica=1, **good | {server: bad[server]})
    process = paybus.system.start_one(spec)
    if server == "REDIS_URL":  # a failure of Redis must not stop the API
        process.wait_ready()
        url = httpx.URL(spec.ready or "").join("/v1/entitlements/nobody")
        headers = {"Authorization": f"Bearer {paybus.token('operator')}"}
        assert paybus.http.get(url, headers=headers).status_code == 404
    until(lambda: "certificate verify failed" in process.tail(), what="its log says why")
    if server != "REDIS_URL":
        until(lambda: status(spec.ready) == 503, what="it says that it can't work")
    process.stop()


async def test_redis_by_tls_has_time_for_its_handshake(secured: Secured) -> None:
    """A response arrives within the timeout, but establishing a TLS connection does not."""
    url = f"rediss://localhost:{secured.redis_port}/0"
    async with slow_link(url, round_trip=0.15) as far:
        options = "?ssl_check_hostname=false&ssl_ca_certs="
        cache = Cache(uuid4().hex, SecretStr(f"{far}{options}{secured.ca}"))
        other = Cache(cache._name, SecretStr(f"{far}{options}{secured.ca}"))

        async def known_beyond() -> bool:
            # Written repeatedly: a late response from a busy machine is ignored.
            await cache.set("default", "key", "value", seconds=60)
            return bool(await other.get("default", "key") == "value")

        await until_async(known_beyond, what="it is known beyond this process")
        await cache.close()
        await other.close()
