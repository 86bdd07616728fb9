"""Broker permissions of each service's login: publish its own events, read its own queues.

`operations` declares the complete topology, takes every dead letter and sends replays, so its login
has all permissions in the virtual host. The other logins can't declare, can't read another
service's queue, and can't route a message into one, whatever the routing key: not as an event, a
retry, or a dead letter that an operator would replay. Every service may read the journal, because
its queues are refilled from it.
https://www.rabbitmq.com/docs/access-control
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.contracts.topology import DECLARED, GIVEN_UP, JOBS, JOURNAL, MARKS, REFILLS, RETRIES

DECLARES: Final = "operations"

# By service and exchange: the types of the events that the service publishes, as regular
# expressions. Version 0.2.0 published its jobs to domain exchanges, and runs beside this one while
# it is replaced.
PUBLISHES: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "webhook-gateway": {
        "payments": (
            r"payment\.[a-z_]+",
            r"refund\.reported",
            r"checkout\.completed",
            r"provider\..+",
        ),
        "subscriptions": (
            r"provider_subscription\.[a-z]+",
            r"provider_customer\.(updated|deleted)",
        ),
        "payouts": (r"provider_transfer\.[a-z]+", r"provider_payout\.[a-z_]+"),
        "banking": (
            r"provider_bank_item\.(updated|failed|repaired|expiring|revoked|account_revoked)",
            r"provider_bank_item\.accounts_available",
        ),
    },
    "subscription": {
        "payments": (r"checkout\.(started|status_changed|reversed)", r"refund\.completed"),
        "subscriptions": (
            r"subscription\.[a-z_]+",
            r"billing_command\.resume",
            r"job\.run\.subscription",
            r"customer\.changed",
        ),
        JOBS: (r"job\.run\.subscription",),
    },
    "provisioning": {
        "provisioning": (r"organization\.[a-z]+", r"job\.run\.provisioning"),
        JOBS: (r"job\.run\.provisioning",),
    },
    "payouts": {
        "payouts": (
            r"payout\.(submitted|paid|failed|returned|cancelled)",
            r"payout\.process\.[a-z]+",
            r"payout_(report\.generate|reconciliation\.run)",
            r"job\.run\.payouts",
        ),
        JOBS: (r"job\.run\.payouts",),
    },
    "bank-sync": {
        "banking": (
            r"bank_item\.(linked|health_changed|removed|remove)",
            r"bank_sync\.run",
            r"job\.run\.bank_sync",
            r"transactions\.synced",
            r"balance\.updated",
        ),
        JOBS: (r"job\.run\.bank_sync",),
    },
    "orders": {
        "orders": (r"order\.[a-z_]+", r"job\.run\.orders"),
        "payments": (r"refund\.requested",),
        "payouts": (r"earnings\.(credit|reverse)",),
        JOBS: (r"job\.run\.orders",),
    },
    "operations": {
        "operations": (r"job\.run\.operations",),
        JOBS: (r"job\.run\.operations",),
    },
}
# What every consumer publishes: completed replay items, and marks at the end of the journal.
_OF_ALL: Final[Mapping[str, Sequence[str]]] = {
    "operations": (r"replay\.items_completed",),
    MARKS: (JOURNAL,),
}


@dataclass(frozen=True)
class Login:
    """Login with its permissions as RabbitMQ's regular expressions.

    `topics` maps an exchange to the routing keys that may be published to it.
    """

    name: str
    configure: str
    write: str
    read: str
    topics: Mapping[str, str]


def name_of(service: str) -> str:
    """Return the name of a service's login."""
    return f"paybus-{service}"


def login_of(service: str, waits: Sequence[str]) -> Login:
    """Return a service's login. `waits` are the names of the retry delays, such as `5s`."""
    if service == DECLARES:
        return Login(name_of(service), ".*", ".*", ".*", {})
    own = rf"^{re.escape(service)}\.[a-z]+$"
    topics = {
        exchange: _any_of([*types, *_OF_ALL.get(exchange, ())])
        for exchange, types in {**_OF_ALL, **PUBLISHES[service]}.items()
    }
    addressed = [f"{RETRIES}.{wait}" for wait in waits] + [GIVEN_UP, REFILLS]
    topics |= dict.fromkeys(addressed, own)
    # On a queue, this permission alone allows nothing but to see that the queue exists.
    marks = rf"{re.escape(DECLARED)}\.[0-9a-f.]+"
    return Login(
        name_of(service),
        "^$",
        _any_of([*(re.escape(each) for each in topics), marks]),
        f"{own}|^{JOURNAL}$",
        topics,
    )


def definitions(
    passwords: Mapping[str, str], waits: Sequence[str], *, virtual_host: str = "/"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the definitions for RabbitMQ to import one after the other; `passwords` is keyed by
    service.

    RabbitMQ refuses a topic permission for an exchange that does not exist, and of one import it
    takes the topic permissions before the exchanges: https://www.rabbitmq.com/docs/definitions
    """
    logins = {service: login_of(service, waits) for service in passwords}
    exchanges = sorted({exchange for login in logins.values() for exchange in login.topics})
    first = {
        "users": [user(login.name, passwords[service]) for service, login in logins.items()],
        "vhosts": [{"name": virtual_host}],
        "permissions": [
            {
                "user": login.name,
                "vhost": virtual_host,
                "configure": login.configure,
                "write": login.write,
                "read": login.read,
            }
            for login in logins.values()
        ],
        "exchanges": [
            {
                "name": exchange,
                "vhost": virtual_host,
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for exchange in exchanges
        ],
    }
    second = {
        "topic_permissions": [
            {
                "user": login.name,
                "vhost": virtual_host,
                "exchange": exchange,
                "write": pattern,
                "read": "^$",
            }
            for login in logins.values()
            for exchange, pattern in login.topics.items()
        ],
    }
    return first, second


def user(name: str, password: str, *tags: str) -> dict[str, Any]:
    """Return one entry of `users` in the definitions."""
    return {
        "name": name,
        "password_hash": _hashed(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": list(tags),
    }


def _hashed(password: str) -> str:
    """Return the salted password hash.

    https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """
    salt = secrets.token_bytes(4)
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _any_of(patterns: Sequence[str]) -> str:
    return f"^({'|'.join(dict.fromkeys(patterns))})$"
