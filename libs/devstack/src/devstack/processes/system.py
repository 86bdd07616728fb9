"""The processes that make up Paybus on one machine, and their configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from devstack import endpoints
from devstack.addresses import free_ports, preferred_port
from devstack.processes.process import Process, Spec, run_once, stop_all
from devstack.processes.stack import Stack
from devstack.tokens import ISSUER, DevKeys

BACKEND_TOKEN = "sandbox"  # noqa: S105 - a secret of the stand-in

SERVICES = (
    "subscription",
    "provisioning",
    "webhook-gateway",
    "payouts",
    "bank-sync",
    "orders",
    "operations",
)

# The stand-ins that call the gateway on their own, and the paths that they call.
CALLED = {
    **{name: name for name in ("fapshi", "mtn-momo", "orange-money", "flutterwave", "square")},
    "dwolla": "dwolla",
    "plaid": "plaid",
    "stripe-payouts": "stripe/payouts",
    "fapshi-payouts": "fapshi/payouts",
}

# The ports of `_PREFERRED` are tried first, so that addresses are the same each time; another copy
# gets free ones.
_LADDER = "5s,30s,2m,10m,1h"  # the services' default
_PREFERRED = {
    "webhook-gateway": 8000,
    "subscription-api": 8001,
    "provisioning-api": 8002,
    "payouts-api": 8003,
    "bank-sync-api": 8004,
    "operations-api": 8005,
    "orders-api": 8006,
    "webhook-gateway-worker": 8010,
    "subscription-worker": 8011,
    "provisioning-worker": 8012,
    "payouts-worker": 8013,
    "bank-sync-worker": 8014,
    "operations-worker": 8015,
    "orders-worker": 8016,
    "sandbox-backend": 8090,
    "sandbox-providers": 8091,
    "sandbox-stripe": 8420,
}


@dataclass(frozen=True)
class Layout:
    """The addresses of one Paybus: `databases` by service, `ports` by process. `python` is the
    interpreter of its services, another one for another version."""

    rabbitmq_url: str
    databases: Mapping[str, str]
    ports: Mapping[str, int]
    jwks: Path
    endpoints: Path
    accounts: Path
    payout_accounts: Path
    bank_accounts: Path
    extra_env: Mapping[str, str]
    logins: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable

    def broker_url(self, service: str) -> str:
        """Return the broker's URL with the service's own login, if there is one."""
        return self.logins.get(service, self.rabbitmq_url)

    def url(self, process: str) -> str:
        return f"http://127.0.0.1:{self.ports[process]}"

    def spec(self, process: str, *, replica: int = 0, **env: str) -> Spec:
        """Return the process of this name; further replicas get a port of their own."""
        make = _MAKERS[process]
        port = self.ports[process] if replica == 0 else free_ports(1)[0]
        spec = make(self, port)
        name = process if replica == 0 else f"{process}-{replica}"
        return Spec(
            name,
            spec.module,
            spec.arguments,
            {**spec.env, **self.extra_env, **env} if spec.env else {},
            spec.ready,
            sys.executable if process.startswith("sandbox-") else self.python,
        )

    def migration(self, service: str) -> Spec:
        env = {"DATABASE_URL": self.databases[service]}
        module = service.replace("-", "_")
        return Spec(f"{service}-migrate", module, ["migrate"], env, python=self.python)


def plan(
    stack: Stack,
    *,
    virtual_host: str,
    databases: Mapping[str, str],
    keys: DevKeys,
    prefer_ports: bool,
    extra_env: Mapping[str, str] | None = None,
    payout_options: Mapping[str, Any] | None = None,
    bank_options: Mapping[str, Any] | None = None,
    own_logins: bool = False,
) -> Layout:
    """Choose addresses for one Paybus in the stack. `payout_options` are for every payout account,
    `bank_options` for the client at Plaid. With `own_logins` each service has its own login at the
    broker, and operations' worker has to run, because no other process may declare anything."""
    free = free_ports(len(_PREFERRED))
    ports = {
        name: preferred_port(port) if prefer_ports else free[index]
        for index, (name, port) in enumerate(_PREFERRED.items())
    }
    url = stack.virtual_host(virtual_host)
    sandbox, stripe, gateway = (
        f"http://127.0.0.1:{ports[name]}"
        for name in ("sandbox-providers", "sandbox-stripe", "webhook-gateway")
    )
    served = endpoints.write(
        keys.folder / f"endpoints-{virtual_host}.toml", endpoints.development(sandbox, stripe)
    )
    accounts = endpoints.write(
        keys.folder / f"accounts-{virtual_host}.toml",
        endpoints.development_accounts(sandbox, stripe, gateway),
        kind="account",
    )
    payout_accounts = endpoints.write(
        keys.folder / f"payout-accounts-{virtual_host}.toml",
        endpoints.payout_accounts(sandbox, **(payout_options or {})),
        kind="account",
    )
    bank_accounts = endpoints.write(
        keys.folder / f"bank-accounts-{virtual_host}.toml",
        endpoints.bank_accounts(sandbox, gateway, **(bank_options or {})),
        kind="client",
    )
    return Layout(
        url,
        databases,
        ports,
        keys.jwks,
        served,
        accounts,
        payout_accounts,
        bank_accounts,
        extra_env or {},
        stack.logins(virtual_host, (extra_env or {}).get("RETRY_LADDER", _LADDER))
        if own_logins
        else {},
    )


def create_databases(stack: Stack, prefix: str) -> Mapping[str, str]:
    return {service: stack.database(f"{prefix}{service}") for service in SERVICES}


def migrate(layout: Layout, logs: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda s: run_once(layout.migration(s), logs), layout.databases))


class System:
    """A running Paybus with its sandbox."""

    def __init__(self, stack: Stack, layout: Layout, logs: Path) -> None:
        self.layout = layout
        self.logs = logs
        self._stack = stack
        self.processes: dict[str, Process] = {}

    def start(self, names: Sequence[str], *, restart: bool = True, wait: bool = True) -> None:
        for name in names:
            self.start_one(self.layout.spec(name), restart=restart)
        if wait:
            for name in names:
                self.processes[name].wait_ready()

    def start_one(self, spec: Spec, *, restart: bool = False) -> Process:
        process = Process(spec, self._stack, self.logs, restart=restart)
        self.processes[spec.name] = process
        return process

    def stop(self) -> None:
        stop_all(list(self.processes.values()))
        self.processes.clear()


PROCESSES = tuple(_PREFERRED)


def introduce(layout: Layout) -> None:
    """Configure the stand-ins' webhook URLs, as in a provider's dashboard."""
    introduce_providers(layout)
    gateway = f"{layout.url('webhook-gateway')}/webhooks"
    hook = {"url": f"{gateway}/stripe", "secret": endpoints.SECRETS["stripe"]}
    url = f"{layout.url('sandbox-stripe')}/_config/webhooks/paybus"
    httpx.post(url, json=hook, timeout=30).raise_for_status()


def introduce_providers(layout: Layout) -> None:
    """Do the same, except for localstripe."""
    gateway = f"{layout.url('webhook-gateway')}/webhooks"
    urls = {name: f"{gateway}/{path}" for name, path in CALLED.items()}
    sandbox = layout.url("sandbox-providers")
    httpx.put(f"{sandbox}/_delivery", json={"urls": urls}, timeout=30).raise_for_status()


def _http(port: int) -> dict[str, str]:
    return {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port), "SHUTDOWN_GRACE_SECONDS": "10"}


def _ready(port: int) -> str:
    return f"http://127.0.0.1:{port}/readyz"


def _gateway(layout: Layout, port: int) -> Spec:
    env = {
        "RABBITMQ_URL": layout.broker_url("webhook-gateway"),
        "ENDPOINTS_FILE": str(layout.endpoints),
    }
    return Spec("webhook-gateway", "webhook_gateway", ["api"], env | _http(port), _ready(port))


def _gateway_worker(layout: Layout, port: int) -> Spec:
    env = _worker(layout, "webhook-gateway") | {"ENDPOINTS_FILE": str(layout.endpoints)}
    ready = _ready(port)
    return Spec("webhook-gateway-worker", "webhook_gateway", ["worker"], env | _http(port), ready)


def _subscription_api(layout: Layout, port: int) -> Spec:
    env = _api(layout, "subscription") | _selling(layout) | _http(port)
    return Spec("subscription-api", "subscription", ["api"], env, _ready(port))


def _subscription_worker(layout: Layout, port: int) -> Spec:
    env = _worker(layout, "subscription") | _selling(layout) | _http(port)
    return Spec("subscription-worker", "subscription", ["worker"], env, _ready(port))


def _provisioning_api(layout: Layout, port: int) -> Spec:
    env = _api(layout, "provisioning") | _backend(layout) | _http(port)
    return Spec("provisioning-api", "provisioning", ["api"], env, _ready(port))


def _provisioning_worker(layout: Layout, port: int) -> Spec:
    env = _worker(layout, "provisioning") | _backend(layout) | _http(port)
    return Spec("provisioning-worker", "provisioning", ["worker"], env, _ready(port))


def _payouts_api(layout: Layout, port: int) -> Spec:
    env = _api(layout, "payouts") | _paying(layout) | _http(port)
    return Spec("payouts-api", "payouts", ["api"], env, _ready(port))


def _payouts_worker(layout: Layout, port: int) -> Spec:
    env = _worker(layout, "payouts") | _paying(layout) | _http(port)
    return Spec("payouts-worker", "payouts", ["worker"], env, _ready(port))


def _bank_sync_api(layout: Layout, port: int) -> Spec:
    env = _api(layout, "bank-sync") | _banking(layout) | _http(port)
    return Spec("bank-sync-api", "bank_sync", ["api"], env, _ready(port))


def _bank_sync_worker(layout: Layout, port: int) -> Spec:
    env = _worker(layout, "bank-sync") | _banking(layout) | _http(port)
    return Spec("bank-sync-worker", "bank_sync", ["worker"], env, _ready(port))


def _orders_api(layout: Layout, port: int) -> Spec:
    env = {"SUBSCRIPTION_URL": layout.url("subscription-api")}
    env |= _api(layout, "orders") | _KEYS | _http(port)
    return Spec("orders-api", "orders", ["api"], env, _ready(port))


def _orders_worker(layout: Layout, port: int) -> Spec:
    rates = f"{layout.url('sandbox-providers')}/_rates"
    env = {"RATES_ECB_URL": f"{rates}/ecb.xml", "RATES_JSON_URL": f"{rates}/latest.json"}
    env |= _worker(layout, "orders") | _http(port)
    return Spec("orders-worker", "orders", ["worker"], env, _ready(port))


def _operations_api(layout: Layout, port: int) -> Spec:
    apis = {service: f"{service}-api" for service in SERVICES if f"{service}-api" in layout.ports}
    urls = ",".join(f"{service}={layout.url(api)}" for service, api in apis.items())
    env = {"PAYOUTS_URL": layout.url("payouts-api"), "SERVICE_URLS": urls}
    env["GATEWAY_URL"] = layout.url("webhook-gateway")
    env["CONSOLE_INSECURE_COOKIES"] = "true"
    env |= _KEYS | _api(layout, "operations") | _http(port)
    return Spec("operations-api", "operations", ["api"], env, _ready(port))


def _operations_worker(layout: Layout, port: int) -> Spec:
    env = _worker(layout, "operations") | _KEYS | _http(port)
    return Spec("operations-worker", "operations", ["worker"], env, _ready(port))


_KEYS = {"ENCRYPTION_KEYS": endpoints.ENCRYPTION_KEY}


def _selling(layout: Layout) -> dict[str, str]:
    return {"ACCOUNTS_FILE": str(layout.accounts), **_KEYS}


def _banking(layout: Layout) -> dict[str, str]:
    return {"BANK_ACCOUNTS_FILE": str(layout.bank_accounts), **_KEYS}


def _paying(layout: Layout) -> dict[str, str]:
    return {"PAYOUT_ACCOUNTS_FILE": str(layout.payout_accounts), **_KEYS}


# One user plays an entire market here.
_NO_LIMITS = dict.fromkeys(
    ("CALLS_PER_MINUTE_PER_TOKEN", "CALLS_PER_MINUTE_PER_ADDRESS", "SIGN_INS_PER_MINUTE"), "1000000"
)


def _api(layout: Layout, service: str) -> dict[str, str]:
    return {
        "DATABASE_URL": layout.databases[service],
        "AUTH_JWKS_FILE": str(layout.jwks),
        "AUTH_ISSUER": ISSUER,
        **_NO_LIMITS,
    }


def _worker(layout: Layout, service: str) -> dict[str, str]:
    return {"DATABASE_URL": layout.databases[service], "RABBITMQ_URL": layout.broker_url(service)}


def _backend(layout: Layout) -> dict[str, str]:
    return {"BACKEND_URL": layout.url("sandbox-backend"), "BACKEND_TOKEN": BACKEND_TOKEN}


def _sandbox_backend(_: Layout, port: int) -> Spec:
    arguments = ["--port", str(port), "--token", BACKEND_TOKEN]
    ready = f"http://127.0.0.1:{port}/_books"
    return Spec("sandbox-backend", "sandbox.backend", arguments, {}, ready)


def _sandbox_providers(_: Layout, port: int) -> Spec:
    ready = f"http://127.0.0.1:{port}/_ready"
    secrets = json.dumps({**endpoints.SECRETS, "plaid": endpoints.PLAID_SECRET})
    arguments = ["--port", str(port), "--secrets", secrets, "--square-url", endpoints.SQUARE_URL]
    return Spec("sandbox-providers", "sandbox.providers", arguments, {}, ready)


def _sandbox_stripe(_: Layout, port: int) -> Spec:
    ready = f"http://127.0.0.1:{port}/js.stripe.com/v3/"
    return Spec("sandbox-stripe", "sandbox.stripe.app", ["--port", str(port)], {}, ready)


_MAKERS = {
    "webhook-gateway": _gateway,
    "webhook-gateway-worker": _gateway_worker,
    "subscription-api": _subscription_api,
    "subscription-worker": _subscription_worker,
    "provisioning-api": _provisioning_api,
    "provisioning-worker": _provisioning_worker,
    "payouts-api": _payouts_api,
    "payouts-worker": _payouts_worker,
    "bank-sync-api": _bank_sync_api,
    "bank-sync-worker": _bank_sync_worker,
    "orders-api": _orders_api,
    "orders-worker": _orders_worker,
    "operations-api": _operations_api,
    "operations-worker": _operations_worker,
    "sandbox-backend": _sandbox_backend,
    "sandbox-providers": _sandbox_providers,
    "sandbox-stripe": _sandbox_stripe,
}
