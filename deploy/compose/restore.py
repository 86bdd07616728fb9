"""`make server-restore CONFIG=/etc/paybus`: the databases from the newest backup and the log since.

It stops every process, leaves the APIs and operations' worker running, as docs/runbooks/restore.md
wants them, and prints the runbook's TIME. The data before the restore stays beside the new data,
until somebody removes it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from deploy.compose.server import Failed, Server, say

# Runs in the database's container while the database is stopped.
_RESTORE: Final = """
set -eu
newest=$(ls /backups/base | sort | tail -n 1)
[ -n "$newest" ] || { echo "there is no backup in /backups/base" >&2; exit 1; }
before="$PGDATA.before-$(date -u +%Y-%m-%dT%H-%M-%SZ)"
[ ! -e "$PGDATA" ] || mv "$PGDATA" "$before"
cp -a "/backups/base/$newest" "$PGDATA"
echo "restore_command = 'cp /backups/log/%f %p'" >> "$PGDATA/postgresql.auto.conf"
touch "$PGDATA/recovery.signal"
echo "from $newest; the data before it is in $before"
"""
_RECOVERED: Final = "SELECT NOT pg_is_in_recovery()"
_MOMENT: Final = """
SELECT to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
"""
_RECOVERY_SECONDS: Final = 3600


def restore(server: Server) -> str:
    """Return the moment to which the databases are restored. Raises `Failed`."""
    processes = [each for each in _services(server) if each.endswith(("-api", "-worker"))]
    say("stopping every process")
    server.compose("stop", *processes, "webhook-gateway", "proxy", "backup")
    say("restoring the newest backup")
    server.compose("stop", "postgres")
    run = ("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "sh")
    print(server.compose(*run, "postgres", "-c", _RESTORE), end="")
    say("recovering the log since")
    server.compose("up", "--detach", "--no-deps", "--wait", "postgres")
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while _ask(server, _RECOVERED) != "t":
        if time.monotonic() > deadline:
            raise Failed("the database is still in recovery: see its log")
        time.sleep(1)
    moment = _ask(server, _MOMENT)
    say("starting the APIs and operations' worker")
    apis = [each for each in processes if each.endswith("-api")]
    server.compose("up", "--detach", "--no-deps", "--no-build", *apis, "operations-worker")
    return moment


def _services(server: Server) -> list[str]:
    return server.compose("config", "--services").split()


def _ask(server: Server, query: str) -> str:
    psql = ("psql", "--username=postgres", "--tuples-only", "--no-align", "--command", query)
    return server.compose("exec", "--no-TTY", "postgres", *psql).strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.restore")
    parser.add_argument("--config", type=Path, required=True, help="where paybus.env is")
    options = parser.parse_args()
    try:
        moment = restore(Server(options.config.resolve()))
    except (Failed, OSError) as error:
        sys.exit(f"make server-restore: {error}")
    print(f"TIME={moment}: go on with step 3 of docs/runbooks/restore.md")


if __name__ == "__main__":
    main()
