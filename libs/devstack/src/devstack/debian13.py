"""Debian 13's RabbitMQ 4.0 beside another system's own, from a debootstrap tree.

`python -m devstack.debian13` makes the tree under `.paybus/` if it is not there yet and prints the
start script, for PAYBUS_RABBITMQ_SERVER. It needs Debian or Ubuntu, and root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from devstack.addresses import DevstackError
from devstack.keeper import say
from devstack.stack import PAYBUS

_RELEASE = "trixie"

# Runs a program of the tree in a mount namespace of its own, in which it sees our state folder
# (its HOME). Nothing stays mounted when the program ends, and its pid is the one we started.
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
    """The start script. Raises `DevstackError` with one sentence where it can't be had."""
    root = PAYBUS / "debian13"
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
    if os.geteuid() != 0 or shutil.which("apt-get") is None or sys.platform != "linux":
        raise DevstackError(
            "RabbitMQ 4 can't be had here: it needs root on Debian or Ubuntu for a Debian 13 tree. "
            "Use a broker of your own: make test RABBITMQ_URL=... RABBITMQ_MANAGEMENT_URL=..."
        )
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("debootstrap") is None:
        say("installing debootstrap ...")
        run(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "update"])
        run(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "debootstrap"])
    say(f"making a Debian 13 tree with rabbitmq-server in {tree} (some minutes) ...")
    include = "--include=rabbitmq-server"
    run(["debootstrap", "--variant=minbase", include, _RELEASE, str(tree), mirror()])


def mirror() -> str:
    """Where apt on this machine gets Debian from."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "Created-By: Packages", "--format", "$(REPO_URI) $(LABEL)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    found = [line.split()[0] for line in listed if line.endswith(" Debian")]
    if not found:
        raise DevstackError("RabbitMQ 4 can't be had here: apt knows no Debian mirror.")
    return found[0]


def run(command: Sequence[str], folder: Path | None = None) -> None:
    """One of Debian's programs, which asks nothing. Raises `DevstackError` when it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no message"])[-1]
        raise DevstackError(f"`{command[0]} ... {command[-1]}` failed: {last}")


if __name__ == "__main__":
    try:
        print(server())
    except DevstackError as error:
        sys.exit(str(error))
