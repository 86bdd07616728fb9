"""What Debian and Ubuntu package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from devstack.addresses import DevstackError


def install(package: str, *, otherwise: str) -> None:
    """By `apt-get`, as root or with sudo; raises `otherwise`, one sentence, where that can't be."""
    apt = shutil.which("apt-get")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if apt is None or (prefix and not _may_sudo()):
        raise DevstackError(otherwise)
    apt_get = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", apt, "-qq", "-o"]
    apt_get += ["DPkg::Lock::Timeout=300"]
    for step in (["update"], ["install", "-y", "--no-install-recommends", package]):
        done = subprocess.run([*apt_get, *step], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DevstackError(
                f"`apt-get {step[0]}` failed while installing {package}: "
                + (done.stderr.strip().splitlines() or ["no message"])[-1]
            )


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
        raise DevstackError("apt on this machine knows no mirror of Debian.")
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


def _may_sudo() -> bool:
    sudo = shutil.which("sudo")
    return sudo is not None and subprocess.run([sudo, "-n", "true"], check=False).returncode == 0
