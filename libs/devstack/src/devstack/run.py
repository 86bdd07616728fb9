"""`make run`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading

from devstack.addresses import claim_preferred_ports
from devstack.processes.stack import PAYBUS, Stack
from devstack.processes.system import (
    PROCESSES,
    Layout,
    System,
    create_databases,
    introduce,
    migrate,
    plan,
)
from devstack.tokens import DevKeys

_WHAT = {
    "webhook-gateway": "webhooks: POST /webhooks/stripe and others",
    "subscription-api": "checkouts, plans, customers, payments, subscriptions; /openapi.json",
    "provisioning-api": "integrations, schedules; /openapi.json",
    "payouts-api": "recipients, payouts, reports, schedules; /openapi.json",
    "bank-sync-api": "link tokens, items, accounts, transactions, syncs, schedules; /openapi.json",
    "orders-api": "orders, payments, refunds, exchange rates, schedules; /openapi.json",
    "operations-api": "the console: /console; dead letters, replays, the journal; /openapi.json",
    "webhook-gateway-worker": "health and metrics",
    "subscription-worker": "health and metrics",
    "provisioning-worker": "health and metrics",
    "payouts-worker": "health and metrics",
    "bank-sync-worker": "health and metrics",
    "operations-worker": "health and metrics",
    "orders-worker": "health and metrics",
    "sandbox-backend": 'the backend API: GET /_books; PUT /_behaviour {"mode": "refuse" or "well"}',
    "sandbox-providers": "providers, payers and banks: docs/guides/checkouts.md and bank-sync.md",
    "sandbox-stripe": "localstripe, a Stripe API",
}


# Settings of the caller that reach the services; addresses and secrets are this stack's own.
_PASSED_ON = (
    "LOG_LEVEL",
    "RETRY_LADDER",
    "BACKEND_INTEGRATION_ENABLED",
    "BACKEND_TIMEOUT_SECONDS",
    "CONSUMER_BATCH",
    "CONCURRENCY",
    "EDIT_AND_REPLAY_ENABLED",
    "REDIS_URL",
    "BANK_SYNC_MAX_AGE_HOURS",
    "BANK_SYNC_LEASE_SECONDS",
    "BANK_BALANCE_TTL_SECONDS",
)


def main() -> int:
    for each in (signal.SIGINT, signal.SIGTERM):  # also where a shell made us ignore Ctrl-C
        signal.signal(each, signal.default_int_handler)
    try:
        _run()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


def _run() -> None:
    folder = PAYBUS / "run"
    logs = folder / "logs"
    place = folder / "addresses.json"
    print("starting RabbitMQ and PostgreSQL ...", flush=True)
    with Stack("run") as stack:
        layout = plan(
            stack,
            virtual_host="paybus",
            databases=create_databases(stack, "paybus_"),
            keys=DevKeys(PAYBUS / "keys"),
            prefer_ports=claim_preferred_ports(),
            extra_env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            own_logins=True,
        )
        migrate(layout, logs)
        system = System(stack, layout, logs)
        try:
            system.start(PROCESSES)
            introduce(layout)
            addresses = {name: layout.url(name) for name in PROCESSES}
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(addresses, indent=2))
            _explain(addresses, stack.addresses.rabbitmq.management_url, str(logs))
            _explain_books(layout)
            threading.Event().wait()
        finally:
            print("\nstopping ...", flush=True)
            place.unlink(missing_ok=True)
            system.stop()


def _explain_books(layout: Layout) -> None:
    print("\nFor `paybus-payouts verify-ledger`:")
    print(f"  export DATABASE_URL={layout.databases['payouts']}", flush=True)


def _explain(addresses: dict[str, str], management_url: str, logs: str) -> None:
    print("\nPaybus is running:")
    for name, url in addresses.items():
        print(f"  {name:22} {url:24} {_WHAT[name]}")
    print(f"  {'RabbitMQ':22} {management_url}")
    print(f"  {'logs':22} {logs}")
    print("\nSend a first webhook, from another terminal:  make webhook")
    print("A token for the APIs:                         make -s token ROLE=operator")
    print(
        "Ctrl-C stops everything. Queues and databases stay for the next `make run`; the sandbox's "
        "own memory does not.",
        flush=True,
    )
