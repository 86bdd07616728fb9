"""`make upgrade TAG=version CONFIG=/etc/paybus`: another version of Paybus on one server.

A backup, the new permissions at the broker, the migrations, then one process after another. What
fails before the first process is replaced leaves everything as it was; after that, the same call
goes on. `BACK=1` is the way back to an older version, which runs with the newer permissions and the
newer databases: only the processes are replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Final

from deploy.compose.server import Failed, Server, say
from deploy.k8s import new_secrets
from deploy.k8s.new_secrets import Missing

# Operations declares what the others wait for; the gateway's callers are kept waiting by the proxy.
_ORDER: Final = (
    "operations", "subscription", "provisioning", "payouts", "bank-sync", "orders",
    "webhook-gateway",
)  # fmt: skip
_READY_SECONDS: Final = 300


def upgrade(server: Server, tag: str, *, back: bool = False) -> None:
    """Raises `Failed`, with the step and what it printed."""
    say(f"images of {tag}")
    _have_images(server)
    if not back:
        say("backup")
        server.compose("exec", "--no-TTY", "backup", "sh", "/backup.sh", "once")
        say("permissions at the broker")
        _renew_permissions(server)
        say("migrations")
        _migrate(server)
    _remember(server.config / "paybus.env", tag)
    for service in _ORDER:
        say(service)
        api = service if service == "webhook-gateway" else f"{service}-api"
        for process in (f"{service}-worker", api):
            up = ("up", "--detach", "--no-deps", "--no-build", "--wait")
            server.compose(*up, "--wait-timeout", str(_READY_SECONDS), process)
            _until_ready(server, process)


def _until_ready(server: Server, process: str) -> None:
    """A healthy process may have no broker, no database, or another version's topology."""
    ask = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=5)"
    deadline = time.monotonic() + _READY_SECONDS
    while not server.succeeds("exec", "--no-TTY", process, "python", "-c", ask):
        if time.monotonic() > deadline:
            logs = server.compose("logs", "--no-log-prefix", "--tail=5", process)
            raise Failed(f"{process} does not become ready; its log:\n{logs}")
        time.sleep(1)


def _have_images(server: Server) -> None:
    for image in sorted(set(server.compose("config", "--images").split())):
        if "paybus/" not in image:
            continue
        if server.has_image(image):
            continue
        if image.startswith("paybus/"):
            raise Failed(f"there is no image {image}: `make server-images TAG=` builds it")
        server.run(["docker", "pull", "--quiet", image])


def _renew_permissions(server: Server) -> None:
    """Passwords stay."""
    folder = server.config / "definitions"
    old = json.loads((folder / "logins.json").read_text())
    for name, text in new_secrets.renewed(old).items():
        (folder / name).write_text(text)
        path = f"/etc/rabbitmq-definitions/{name}"
        importing = ("rabbitmqctl", "import_definitions", path)
        server.compose("exec", "--no-TTY", "rabbitmq", *importing)


def _migrate(server: Server) -> None:
    for service in _ORDER:
        server.compose("run", "--rm", "--no-deps", "--no-TTY", f"{service}-migrate")


def _remember(file: Path, tag: str) -> None:
    text = re.sub(r"(?m)^PAYBUS_TAG=.*$", f"PAYBUS_TAG={tag}", file.read_text())
    file.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.upgrade")
    parser.add_argument("--config", type=Path, required=True, help="where paybus.env is")
    parser.add_argument("--tag", required=True, help="the version of the images")
    parser.add_argument("--back", action="store_true", help="to an older version")
    options = parser.parse_args()
    if not options.tag:
        sys.exit("make upgrade: which version? make upgrade TAG=version")
    try:
        upgrade(Server(options.config.resolve(), options.tag), options.tag, back=options.back)
    except (Failed, Missing, OSError) as error:
        hint = "It can be repeated, or called with the old TAG and BACK=1."
        sys.exit(f"make upgrade: {error}\n{hint}")
    print(f"{options.tag} runs")


if __name__ == "__main__":
    main()
