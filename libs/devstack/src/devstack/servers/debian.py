"""Packages of Debian and Ubuntu."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from devstack.addresses import DevstackError

# Older debootstraps have no script of a new release's name; all have the one that it links to.
_SCRIPT = "/usr/share/debootstrap/scripts/sid"


def install(package: str, *, otherwise: str) -> None:
    """Install with `apt-get`, as root or with sudo. Raises `otherwise`, a sentence, if it can't."""
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
    """Return the mirror from which apt on this machine gets Debian."""
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


def may_bootstrap() -> bool:
    """Return whether a Debian tree can be made here: that takes root, on Debian or Ubuntu."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and sys.platform == "linux"


def bootstrap(release: str, tree: Path, packages: Sequence[str] = ()) -> None:
    """Make a minimal Debian tree with these packages, in place of what is there. Raises
    `DevstackError`."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("debootstrap") is None:
        install("debootstrap", otherwise="debootstrap is missing, and can't be installed.")
    include = [f"--include={','.join(packages)}"] if packages else []
    run(["debootstrap", "--variant=minbase", *include, release, str(tree), mirror(), _SCRIPT])
    # Debian's installer writes it, its packages do not; Erlang's nodes find each other by it.
    (tree / "etc" / "hosts").write_text("127.0.0.1 localhost\n")


def run(command: Sequence[str], folder: Path | None = None) -> None:
    """Run one of Debian's programs, without prompts. Raises `DevstackError` when it fails."""
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
