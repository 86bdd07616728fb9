"""Debian 14's RabbitMQ 4.3 beside another system's own, from a debootstrap tree.

`python -m devstack.servers.rabbitmq4` creates the tree under `.paybus/` if it is missing and prints
the start script, for PAYBUS_RABBITMQ_SERVER. It needs Debian or Ubuntu, and root.
"""

from __future__ import annotations

import sys
from pathlib import Path

from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from devstack.processes.supervisor import say
from devstack.servers import debian

_RELEASE = "forky"

# Runs a program of the tree in a mount namespace of its own, in which it has access to our state
# folder (its HOME). Nothing stays mounted when the program ends, and its pid is the one we started.
_WRAPPER = """#!/bin/sh
exec unshare --mount sh -c '
    set -e
    for folder in "$HOME" /proc /dev; do
        mkdir -p "{tree}$folder"
        mount --rbind "$folder" "{tree}$folder"
    done
    exec chroot "{tree}" "$0" "$@"
' {program} "$@"
"""

_PROGRAMS = {
    "rabbitmq-server": "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "rabbitmqctl": "/usr/lib/rabbitmq/bin/rabbitmqctl",
    "epmd": "/usr/bin/epmd",
}


def server() -> Path:
    """Return the start script. Raises `DevstackError` with one sentence if it is unavailable."""
    root = PAYBUS / "debian14"
    tree, programs = root / "tree", root / "bin"
    if not (root / "complete").exists():
        _make(tree)
        (root / "complete").touch()
    programs.mkdir(exist_ok=True)
    for name, program in _PROGRAMS.items():
        script = programs / name
        script.write_text(_WRAPPER.format(tree=tree, program=program))
        script.chmod(0o755)
    return programs / "rabbitmq-server"


def _make(tree: Path) -> None:
    if not debian.may_bootstrap():
        raise DevstackError(
            "RabbitMQ 4 can't be had here: it needs root on Debian or Ubuntu for a Debian 14 tree. "
            "Use a broker of your own: make test RABBITMQ_URL=... RABBITMQ_MANAGEMENT_URL=..."
        )
    say(f"making a Debian 14 tree with rabbitmq-server in {tree} (some minutes) ...")
    debian.bootstrap(_RELEASE, tree, ["rabbitmq-server"])


if __name__ == "__main__":
    try:
        print(server())
    except DevstackError as error:
        sys.exit(str(error))
