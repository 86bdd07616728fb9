"""`make k8s-secrets FILES=folder | kubectl create -f -`: every Secret that the manifests refer to.

Passwords and encryption keys are new ones, so this is for a namespace that has none yet: `create`
refuses to touch what is there. What only its owner knows comes from `folder` (the files that
settings name, each checked as its service checks it) and from the environment: `BACKEND_TOKEN`;
`REDIS_URL`, if there is one; `BACKUP_KEY_ID` and `BACKUP_SECRET` of the bucket, if backups go to
one.

`make k8s-definitions OLD=folder` replaces the broker's definitions in the folder by those of this
version, with the users and passwords of the old ones.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import structlog
import yaml
from cryptography.fernet import Fernet
from deploy.k8s import file_checks

from common.contracts import logins
from common.contracts.retry_ladder import RetryLadder

SERVICES = Path(__file__).parent / "services"
NAMESPACE = "paybus"
AUTHORITIES = "/run/authorities"
_OPTIONAL = frozenset({"REDIS_URL"})
_BUCKET = {"ACCESS_KEY_ID": "BACKUP_KEY_ID", "ACCESS_SECRET_KEY": "BACKUP_SECRET"}


class Missing(Exception):
    """Something that cannot be made up."""


@dataclass(frozen=True)
class Servers:
    """Where broker and database are; a service's login, and its database's name, are filled in."""

    broker: str
    database: str


KUBERNETES = Servers(
    f"amqps://{{login}}@rabbitmq.paybus.svc:5671/?cafile={AUTHORITIES}/rabbitmq.pem",
    "postgresql://{login}@postgres-rw:5432/{name}"
    f"?sslmode=verify-full&sslrootcert={AUTHORITIES}/postgres.pem",
)


def secrets(
    folder: Path, environment: Mapping[str, str], servers: Servers = KUBERNETES
) -> Sequence[Mapping[str, Any]]:
    """The Secrets, as Kubernetes takes them. Raises `Missing`, with all that is."""
    missing: list[str] = []
    services = sorted(SERVICES.glob("*/settings.env"))
    passwords = {each.parent.name: token_urlsafe(24) for each in services}
    made = _of_broker(passwords, _ladder(services))
    for settings in services:
        password = passwords[settings.parent.name]
        made += _of_service(settings, folder, environment, servers, password, missing)
    bucket = {key: environment.get(name, "") for key, name in _BUCKET.items()}
    if all(bucket.values()):
        made.append(_secret("postgres-backup", bucket))
    elif any(bucket.values()):
        missing.append("of BACKUP_KEY_ID and BACKUP_SECRET the environment has only one")
    if missing:
        raise Missing("; ".join(dict.fromkeys(missing)))
    return made


def _ladder(services: Sequence[Path]) -> RetryLadder:
    """The waits that logins may send messages to; all services have the same."""
    found = {
        ladder
        for each in services
        for ladder in re.findall(r"^RETRY_LADDER=(.+)$", each.read_text(), re.MULTILINE)
    }
    (ladder,) = found
    return RetryLadder.parse(ladder)


def _of_broker(passwords: Mapping[str, str], ladder: RetryLadder) -> list[Mapping[str, Any]]:
    """An administrator's login, KEDA's, and each service's own; what they may do is imported
    whenever a node starts."""
    administrator, autoscaler = token_urlsafe(24), token_urlsafe(24)
    first, second = logins.definitions(passwords, [rung.name for rung in ladder.rungs])
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    nothing = dict.fromkeys(("configure", "write", "read"), "^$")
    for name, password, tag, may in (
        ("paybus", administrator, "administrator", everything),
        ("paybus-keda", autoscaler, "monitoring", nothing),
    ):
        first["users"].append(logins.user(name, password, tag))
        first["permissions"].append({"user": name, "vhost": "/", **may})
    return [
        _secret(
            "rabbitmq-login",
            {
                "username": "paybus",
                "password": administrator,
                "host": "rabbitmq.paybus.svc",
                "port": "5671",
                "provider": "rabbitmq",
                "type": "rabbitmq",
                "default_user.conf": f"default_user = paybus\ndefault_pass = {administrator}\n",
            },
        ),
        _secret("rabbitmq-definitions", _files(first, second)),
        _secret(
            "keda-rabbitmq", {"host": f"http://paybus-keda:{autoscaler}@rabbitmq.paybus.svc:15672/"}
        ),
    ]


def databases(logins: Sequence[Mapping[str, str]]) -> str:
    """The roles of the services and their databases, as a script for PostgreSQL's first start."""
    return "".join(
        f"CREATE ROLE {login['username']} LOGIN PASSWORD '{login['password']}';\n"
        f"CREATE DATABASE {login['username']} OWNER {login['username']};\n"
        for login in logins
    )


def _files(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, str]:
    """By name, and the names are in the order in which a node imports the files of a folder."""
    return {
        "logins.json": json.dumps(first, indent=2),
        "topics.json": json.dumps(second, indent=2),
    }


def renewed(old: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the files with the broker's definitions of this version and the users of the `old`
    `logins.json`. Raise `Missing` for a service without a user: it needs a password, and the
    service has to know it."""
    settings = sorted(SERVICES.glob("*/settings.env"))
    services = [each.parent.name for each in settings]
    users = {each["name"]: each for each in old["users"]}
    if unknown := [each for each in services if logins.name_of(each) not in users]:
        raise Missing(f"the old definitions have no user of {', '.join(unknown)}")
    first, second = logins.definitions(
        dict.fromkeys(services, ""), [rung.name for rung in _ladder(settings).rungs]
    )
    ours = {each["user"] for each in first["permissions"]}
    others = [each for each in old["permissions"] if each["user"] not in ours]
    permissions = [*first["permissions"], *others]
    return _files(first | {"users": old["users"], "permissions": permissions}, second)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Missing(f"{path} is no file with a broker's definitions: {error}") from error
    if not isinstance(found, dict) or not {"users", "permissions"} <= found.keys():
        raise Missing(f"{path} contains no users and permissions")
    return found


def _of_service(
    settings: Path,
    folder: Path,
    environment: Mapping[str, str],
    servers: Servers,
    broker_password: str,
    missing: list[str],
) -> Iterator[Mapping[str, Any]]:
    service, text = settings.parent.name, settings.read_text()
    role, password = service.replace("-", "_"), token_urlsafe(24)
    login = {"username": role, "password": password}
    yield _secret(f"postgres-{service}", login, kind="kubernetes.io/basic-auth")
    at_broker = f"{logins.name_of(service)}:{broker_password}"
    made = {
        "RABBITMQ_URL": servers.broker.format(login=at_broker),
        "DATABASE_URL": servers.database.format(login=f"{role}:{password}", name=role),
        "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    }
    values = {}
    for name in re.findall(r"^# ([A-Z_]+)=  secret$", text, re.MULTILINE):
        if name in made:
            values[name] = made[name]
        elif environment.get(name):
            values[name] = environment[name]
        elif name not in _OPTIONAL:
            missing.append(f"the environment has no {name}")
    yield _secret(f"{service}-secrets", values)
    files = {}
    for name in re.findall(r"=/run/paybus/(\S+)$", text, re.MULTILINE):
        path = folder / name
        if fault := file_checks.fault_of(path):
            missing.append(fault)
            continue
        files[name] = path.read_text() if path.exists() else ""
        if "127.0.0.1" in files[name]:
            missing.append(f"{path} is of a sandbox: it names 127.0.0.1")
    yield _secret(f"{service}-files", files)


def _secret(name: str, content: Mapping[str, str], kind: str = "Opaque") -> Mapping[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": kind,
        "stringData": dict(content),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.k8s.new_secrets")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--files", type=Path, help="where *.toml and jwks.json are")
    what.add_argument("--definitions", type=Path, help="where the broker's definitions so far are")
    options = parser.parse_args()
    # The output is for kubectl: what the services' checks log is not part of it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        if options.definitions is not None:
            for name, text in renewed(_read(options.definitions / "logins.json")).items():
                (options.definitions / name).write_text(text)
            return
        made = secrets(options.files, os.environ)
    except Missing as error:
        target = "k8s-secrets" if options.definitions is None else "k8s-definitions"
        sys.exit(f"make {target}: {error}")
    if not any(each["metadata"]["name"] == "postgres-backup" for each in made):
        print("no BACKUP_KEY_ID: `production` can't make backups without one", file=sys.stderr)
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
