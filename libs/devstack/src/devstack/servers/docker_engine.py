"""`python -m devstack.servers.docker_engine COMMAND...`: run a command that has a Docker engine.

That is the engine which `docker` has here. Without one, it is Debian 13's own, which runs while the
command does: in a Debian tree under `.paybus/`, in namespaces of its own (processes, mounts and
network), so that it leaves this machine's programs, firewall and addresses alone. The command joins
its network: published ports are on 127.0.0.1 there. Needs root, on Debian or Ubuntu.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from devstack.processes.supervisor import say
from devstack.servers import debian
from devstack.servers.containers import engine_runs

# Set where the engine is of our own making, so that no other project's images are replaced.
OURS = "PAYBUS_DOCKER_ENGINE"
_RELEASE = "trixie"
_PACKAGES = (
    "docker.io", "docker-cli", "docker-compose", "docker-buildx", "iptables", "iproute2",
    "ca-certificates", "tini", "slirp4netns",
)  # fmt: skip
_START_SECONDS = 60
_STOP_SECONDS = 120

# The tree becomes the root of its processes, with this checkout at the same path as outside: there
# Compose finds the files that it mounts. `tini` reaps, and its end is the end of all containers.
_ENTER = """
set -eu
tree=$1 checkout=$2 log=$3
mount --rbind "$tree" "$tree"
cd "$tree"
mount --rbind /sys sys
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p ".$checkout" .outside
mount --rbind "$checkout" ".$checkout"
pivot_root . .outside
umount -l /.outside
ip link set lo up
exec tini -s -- dockerd --host "unix://$4" --data-root /var/lib/docker --exec-root /run/docker \
    --pidfile /run/docker.pid > "$log" 2>&1
"""

# The client runs in the tree, in the caller's folder.
_CLIENT = """#!/bin/sh
exec nsenter --target {pid} --mount --net --wdns="$PWD" -- \
    env DOCKER_HOST="unix://{socket}" HOME=/root /usr/bin/docker "$@"
"""


class DebianEngine:
    """Debian's Docker engine, in `root`."""

    def __init__(self, root: Path) -> None:
        self._tree = root / "tree"
        self._complete = root / "complete"
        self._log = root / "engine.log"
        # Not below `root`, whose path may be too long for a socket's address.
        self._socket = PAYBUS / "docker.sock"
        self._bin = root / "bin"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Raises `DevstackError` when it can't be had here, or does not start."""
        self._install()
        self._socket.unlink(missing_ok=True)
        checkout = PAYBUS.parent
        places = map(str, (self._tree, checkout, self._log, self._socket))
        enter = ["sh", "-c", _ENTER, "enter", *places]
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        self._processes.append(
            subprocess.Popen([*unshare, *enter], stdin=subprocess.DEVNULL, start_new_session=True)
        )
        pid = self._first_child()
        self._connect(pid)
        self._bin.mkdir(exist_ok=True)
        client = self._bin / "docker"
        client.write_text(_CLIENT.format(pid=pid, socket=self._socket))
        client.chmod(0o755)
        self._wait_for(lambda: self.run(["docker", "info"], quiet=True) == 0, "it has started")

    def run(self, command: Sequence[str], *, quiet: bool = False) -> int:
        """Run the command in the engine's network, with `docker` in its PATH."""
        children = self._children()
        if not children:
            return 1  # it has ended
        pid = children[0]
        entered = ["nsenter", "--target", str(pid), "--net", "--", *command]
        output = subprocess.DEVNULL if quiet else None
        return subprocess.run(
            entered, env=self._environment(), stdout=output, stderr=output, check=False
        ).returncode

    def stop(self) -> None:
        """Stop the engine; its images and volumes stay."""
        for pid in self._children():
            os.kill(pid, signal.SIGTERM)
        for process in self._processes:  # the engine, then the network that it needs until its end
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._disconnect()

    def _environment(self) -> Mapping[str, str]:
        return os.environ | {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{self._socket}",
            OURS: "1",
        }

    def _install(self) -> None:
        if self._complete.exists():
            return
        if not debian.may_bootstrap():
            raise DevstackError(
                "there is no Docker engine, and Debian's can't be started: that takes root on "
                "Debian or Ubuntu"
            )
        say(f"making a Debian 13 tree with Docker's engine in {self._tree} (some minutes) ...")
        debian.bootstrap(_RELEASE, self._tree, _PACKAGES)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", self._tree / "etc" / "ssl" / "certs")
        self._complete.touch()

    def _connect(self, pid: int) -> None:
        """Connect its network to the outside, by a process of this user's instead of a bridge."""
        resolver = self._tree / "etc" / "resolv.conf"
        resolver.unlink(missing_ok=True)
        resolver.write_text("nameserver 10.0.2.3\n")  # slirp4netns' own
        # The tree's program, with the tree's libraries: it has to be outside of the namespaces.
        (loader,) = self._tree.glob("usr/lib*/ld-linux*.so.*")
        (libraries,) = self._tree.glob("usr/lib/*-linux-gnu*")
        program = self._tree / "usr" / "bin" / "slirp4netns"
        options = ["--configure", "--mtu=1400", "--disable-host-loopback", str(pid), "tap0"]
        self._processes.append(
            subprocess.Popen(
                [loader, "--library-path", libraries, program, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def _disconnect(self) -> None:
        for network in self._processes[1:]:
            network.terminate()

    def _first_child(self) -> int:
        self._wait_for(lambda: bool(self._children()), "its namespaces exist")
        (pid,) = self._children()
        return pid

    def _children(self) -> Sequence[int]:
        if not self._processes:
            return ()
        parent = self._processes[0].pid
        try:
            listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            return ()
        return [int(each) for each in listed.split()]

    def _wait_for(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not happened():
            if time.monotonic() > deadline or self._processes[0].poll() is not None:
                log = self._log.read_text() if self._log.exists() else ""
                self.stop()
                raise DevstackError(
                    f"Debian's Docker engine does not start ({what} was waited for); the end of "
                    f"its log:\n{log[-2000:]}"
                )
            time.sleep(0.2)


@contextmanager
def debian_engine() -> Iterator[DebianEngine]:
    root = PAYBUS / "docker"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as held:  # two engines would destroy each other's data
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevstackError("Debian's Docker engine is in use in this checkout") from None
        engine = DebianEngine(root)
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()


def main(command: Sequence[str]) -> int:
    if engine_runs():
        return subprocess.run(command, check=False).returncode
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the engine ends with us
    with debian_engine() as engine:
        return engine.run(command)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except DevstackError as error:
        sys.exit(f"devstack: {error}")
