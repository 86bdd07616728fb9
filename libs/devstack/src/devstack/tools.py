"""Programs for platform engineers: kubectl, docker-compose, Prometheus and related ones.

`python -m devstack.tools kubectl promtool` prints the folder that contains them. They come from
Debian 13's packages, unpacked under `.paybus/` (nothing is installed), where apt can fetch them;
otherwise from this machine's PATH.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from devstack.processes.supervisor import say
from devstack.servers.debian import mirror, run

_PACKAGES = {
    "kubectl": "kubectl",
    "docker-compose": "docker-compose",
    "prometheus": "prometheus",
    "promtool": "promtool",
    "amtool": "prometheus-alertmanager",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
_RELEASE = "trixie"


def tool(name: str) -> Path:
    """Return the program's path. Raises `DevstackError` with one sentence if it is unavailable."""
    unpacked = PAYBUS / "tools" / "usr" / "bin" / name
    if unpacked.exists():
        return unpacked
    reason = f"{name} can't be had here"
    if shutil.which("apt-get") is not None and platform.machine() in {"x86_64", "aarch64"}:
        try:
            _unpack(_PACKAGES[name])
        except DevstackError as error:  # without a network, for instance
            reason = str(error)
        if unpacked.exists():
            return unpacked
    found = shutil.which(name)
    if found is None:
        raise DevstackError(f"{reason}: install {name}, and have it in the PATH")
    return Path(found)


def _unpack(package: str) -> None:
    """Unpack a package, with lists of its own: this machine's apt remains unchanged."""
    root = PAYBUS / "tools"
    apt = root / "apt"
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    sources = apt / "sources.list"
    options = [
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={apt / 'lists'}",
        f"Dir::Cache={apt}",
        "Dir::State::status=/dev/null",
        "APT::Sandbox::User=",
    ]
    command = ["apt-get", "-qq", *(f"-o{each}" for each in options)]
    say(f"fetching {package} of Debian 13 ...")
    if not sources.exists():
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        trust = f"[signed-by={keys}]" if Path(keys).exists() else ""
        sources.write_text(f"deb {trust} {mirror()} {_RELEASE} main\n")
        try:
            run([*command, "update"], apt)
        except DevstackError:
            sources.unlink()
            raise
    run([*command, "download", package], apt)
    for archive in apt.glob(f"{package}_*.deb"):
        run(["dpkg", "-x", str(archive), str(root)], apt)
        archive.unlink()


if __name__ == "__main__":
    try:
        folders = {tool(name).parent for name in sys.argv[1:]}
        print(":".join(map(str, sorted(folders))))
    except DevstackError as error:
        sys.exit(str(error))
