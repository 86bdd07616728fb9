"""Generation and rotation of encryption keys."""

from __future__ import annotations

import os
import subprocess

from devstack import warm
from support.paybus import Paybus

Done = subprocess.CompletedProcess[str]


def new_key(service: str) -> str:
    return _run(service, "generate-key").stdout.strip()


def rotate(paybus: Paybus, service: str, keys: str) -> Done:
    database = paybus.layout.databases[service]
    return _run(service, "rotate-keys", DATABASE_URL=database, ENCRYPTION_KEYS=keys)


def _run(service: str, role: str, **env: str) -> Done:
    return warm.run(service.replace("-", "_"), [role], os.environ | env)
