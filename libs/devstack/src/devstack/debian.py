"""Installs what Debian and Ubuntu package."""

from __future__ import annotations

import os
import shutil
import subprocess

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


def _may_sudo() -> bool:
    sudo = shutil.which("sudo")
    return sudo is not None and subprocess.run([sudo, "-n", "true"], check=False).returncode == 0
