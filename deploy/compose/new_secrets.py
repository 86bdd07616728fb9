"""`make server-secrets FILES=folder CONFIG=/etc/paybus`: every file that production.yml mounts.

Passwords and encryption keys are new ones, so a folder that already has some is refused. What only
its owner knows comes from `FILES` (the accounts and keys, each checked as its service checks it)
and from the environment: `BACKEND_TOKEN`. Each container's user can read its own folder alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from secrets import token_urlsafe

import structlog
from deploy.k8s import new_secrets
from deploy.k8s.new_secrets import Missing, Servers

# By folder: the user of the containers that read it. Those of the images of RabbitMQ and PostgreSQL
# are 999: https://github.com/docker-library/rabbitmq and https://github.com/docker-library/postgres
_SERVICE, _SERVER, _ALERTMANAGER = 10001, 999, 65534
_SERVERS = Servers("amqp://{login}@rabbitmq:5672/", "postgresql://{login}@postgres:5432/{name}")
_EXAMPLE = Path(__file__).parent / "paybus.env.example"


def write(config: Path, files: Path, backups: Path, environment: Mapping[str, str]) -> None:
    """Write all files below `config`, and make the folder of `backups`. Raises `Missing`, before
    anything is written."""
    if any(config.glob("*/*")):
        raise Missing(f"{config} has files already: new passwords would lock Paybus out")
    made = new_secrets.secrets(files, environment, _SERVERS)
    secrets = {each["metadata"]["name"]: each["stringData"] for each in made}
    services = sorted(name.removesuffix("-files") for name in secrets if name.endswith("-files"))
    for service in services:
        named = {name.lower(): value for name, value in secrets[f"{service}-secrets"].items()}
        _folder(config / service, secrets[f"{service}-files"] | named, _SERVICE)
    _folder(config / "definitions", secrets["rabbitmq-definitions"], _SERVER)
    logins = [secrets[f"postgres-{service}"] for service in services]
    databases = {"databases.sql": new_secrets.databases(logins), "password": token_urlsafe(24)}
    _folder(config / "database", databases, _SERVER)
    # Webhooks of Slack and PagerDuty, as alertmanager.yml names them; empty means nowhere.
    _folder(config / "alertmanager", {"slack": "", "pagerduty": ""}, _ALERTMANAGER)
    _folder(config / "broker", {"password": secrets["rabbitmq-login"]["password"]}, 0)
    config.chmod(0o700)
    for folder in (backups, backups / "base", backups / "log"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        _give(folder, _SERVER)
    if not (config / "paybus.env").exists():
        places = f"PAYBUS_CONFIG={config}\nPAYBUS_BACKUPS={backups}\n"
        (config / "paybus.env").write_text(_EXAMPLE.read_text() + places)


def _folder(folder: Path, files: Mapping[str, str], user: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.touch(mode=0o400)
        path.write_text(content)
        _give(path, user)
    folder.chmod(0o500)
    _give(folder, user)


def _give(path: Path, user: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, user, user)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.new_secrets")
    parser.add_argument("--files", type=Path, required=True, help="where *.toml and jwks.json are")
    parser.add_argument("--config", type=Path, required=True, help="the folder to write")
    parser.add_argument("--backups", type=Path, required=True, help="the folder of backups")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if os.geteuid() != 0:
        sys.exit("make server-secrets: only root can give the files to the containers' users")
    try:
        config, backups = options.config.resolve(), options.backups.resolve()
        write(config, options.files, backups, os.environ)
    except Missing as error:
        sys.exit(f"make server-secrets: {error}")
    print(f"now fill in {config / 'paybus.env'}, and remove {options.files}")


if __name__ == "__main__":
    main()
