"""The development stack leaves nothing behind, however its parent ends; two do not collide."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from devstack.processes.stack import Stack
from support.waiting import until

# A shell that runs the tests in the background makes them ignore Ctrl-C; children inherit that.
_PARENT = """
import signal, time
from devstack.processes.stack import Stack
signal.signal(signal.SIGINT, signal.default_int_handler)
with Stack() as stack:
    child = __import__("subprocess").Popen(["sleep", "600"], start_new_session=True)
    stack.watch(child.pid)
    print(stack.state, child.pid, flush=True)
    time.sleep(600)
"""


def _processes_of(state: str) -> list[int]:
    """Return the processes whose command line or environment names the state folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if state.encode() in text:
                    found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_parent_is_killed_or_interrupted(how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    state, child = parent.stdout.readline().split()
    assert len(_processes_of(state)) >= 3, "broker, epmd, database, keeper"
    parent.send_signal(how)
    parent.wait(60)
    parent.stdout.close()
    until(lambda: not _processes_of(state), what="all processes of the stack are gone")
    until(lambda: not Path(f"/proc/{child}").exists(), what="the watched process is gone")
    until(lambda: not Path(state).exists(), what="its data is gone")


def test_two_stacks_run_side_by_side(stack: Stack) -> None:
    with Stack() as other:
        assert other.addresses.rabbitmq.url != stack.addresses.rabbitmq.url
        other.database("only_here")
        other.virtual_host("only-here")
        query = "SELECT count(*) FROM pg_database WHERE datname = 'only_here'"
        for each, count in ((other, 1), (stack, 0)):
            with psycopg.connect(each.addresses.postgres_url) as connection:
                assert connection.execute(query).fetchone() == (count,)
    with psycopg.connect(stack.addresses.postgres_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,), "ours runs on"
