"""Child processes that cannot outlive the process that owns them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from devstack.addresses import DevstackError

_PR_SET_PDEATHSIG = 1


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
    dies_by: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a server in its own session; on Linux the kernel sends it `dies_by` if we are killed.

    Only for a single-threaded owner (the keeper): the kernel ties that signal to the thread.
    """

    def tie_to_parent() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(dies_by))

    uid, gid = user or (None, None)
    with log.open("ab") as output:
        return subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            start_new_session=True,
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - the supervisor has one thread
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
        )


def wait_until(
    ready: Callable[[], bool],
    child: subprocess.Popen[bytes],
    *,
    what: str,
    log: Path,
    seconds: float,
) -> None:
    """Poll `ready`; raise with the log's last lines if the child ends or time is up first."""
    deadline = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            fate = "ended" if child.poll() is not None else f"was not ready after {seconds:.0f} s"
            lines = log.read_text(errors="replace").splitlines()[-15:]
            raise DevstackError(f"{what} {fate}; the end of its log:\n" + "\n".join(lines))
        time.sleep(0.05)


def stop(child: subprocess.Popen[bytes], how: signal.Signals, seconds: float) -> None:
    """Send `how`, wait, then kill the entire process group."""
    if child.poll() is None:
        child.send_signal(how)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    with suppress(ProcessLookupError, PermissionError):  # already gone, as desired
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
