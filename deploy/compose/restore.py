"""`make server-restore CONFIG=/etc/paybus`: the databases from a backup and the log since.

It stops every process, leaves the APIs and operations' worker running, as docs/runbooks/restore.md
wants them, and prints the runbook's TIME. The data before the restore stays beside the new data,
until it is removed. The command can be repeated if it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from deploy.compose.server import Failed, Server, say

# Run in the database's container, beside the running database and then without it. The copy is
# complete before the data that it replaces is moved.
_PREPARE: Final = """
set -eu
chosen=$1
newest=$(ls /backups/base | sort | tail -n 1)
[ -n "$newest" ] || { echo "there is no backup in /backups/base" >&2; exit 1; }
identifier_of() { LC_ALL=C pg_controldata "/backups/base/$1" | sed -n 's/^Database system identifier: *//p'; }
if [ -z "$chosen" ]; then
  for each in $(ls /backups/base); do
    if [ "$(identifier_of "$each")" != "$(identifier_of "$newest")" ]; then
      echo "the backups are of several databases; choose one with BACKUP=: $(ls /backups/base | xargs)" >&2
      exit 1
    fi
  done
  chosen=$newest
fi
mkdir -p "$(dirname "$PGDATA")"
rm -rf "$PGDATA.new"
cp -a "/backups/base/$chosen" "$PGDATA.new"
echo "restore_command = 'test -f /backups/log/%f.gz && gzip -dc /backups/log/%f.gz > %p'" >> "$PGDATA.new/postgresql.auto.conf"
touch "$PGDATA.new/recovery.signal"
sync
echo "$chosen is copied"
"""  # noqa: E501
_REPLACE: Final = """
set -eu
if [ -e "$PGDATA" ]; then
  for each in "$PGDATA"/pg_wal/archive_status/*.ready; do
    [ -e "$each" ] || continue
    name=$(basename "$each" .ready)
    sh /archive.sh "$PGDATA/pg_wal/$name" "$name" || echo "$name could not be archived" >&2
  done
  before="$PGDATA.before-$(date -u +%Y-%m-%dT%H-%M-%SZ)"
  mv "$PGDATA" "$before"
  echo "the data so far is in $before"
fi
mv "$PGDATA.new" "$PGDATA"
"""
_RECOVERED: Final = "SELECT NOT pg_is_in_recovery()"
_MOMENT: Final = """
SELECT to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
"""


def restore(server: Server, backup: str) -> str:
    """Restore `backup`, or the newest one; return the moment to which the databases are restored.
    Raises `Failed`."""
    processes = [each for each in _services(server) if each.endswith(("-api", "-worker"))]
    run = ("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "sh", "postgres", "-c")
    say("copying the backup")
    print(server.compose(*run, _PREPARE, "prepare", backup), end="")
    say("stopping every process")
    server.compose("stop", *processes, "webhook-gateway", "proxy", "backup")
    server.compose("stop", "postgres")
    print(server.compose(*run, _REPLACE), end="")
    say("recovering the log since; the database's own log shows how far it is")
    server.compose("up", "--detach", "--no-deps", "postgres")
    while not _is_recovered(server):
        time.sleep(2)
    moment = _ask(server, _MOMENT)
    say("starting the broker, the APIs and operations' worker")
    server.compose("up", "--detach", "--no-deps", "--wait", "rabbitmq")
    apis = [each for each in processes if each.endswith("-api")]
    server.compose("up", "--detach", "--no-deps", "--no-build", *apis, "operations-worker")
    return moment


def _services(server: Server) -> list[str]:
    return server.compose("config", "--services").split()


def _is_recovered(server: Server) -> bool:
    """That can take hours, and the database refuses connections for a part of them."""
    try:
        return _ask(server, _RECOVERED) == "t"
    except Failed:
        return False


def _ask(server: Server, query: str) -> str:
    psql = ("psql", "--username=postgres", "--tuples-only", "--no-align", "--command", query)
    return server.compose("exec", "--no-TTY", "postgres", *psql).strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.restore")
    parser.add_argument("--config", type=Path, required=True, help="where paybus.env is")
    parser.add_argument("--backup", default="", help="its folder's name; the newest by default")
    options = parser.parse_args()
    try:
        moment = restore(Server(options.config.resolve()), options.backup)
    except (Failed, OSError) as error:
        sys.exit(f"make server-restore: {error}")
    print(f"TIME={moment}: go on with step 3 of docs/runbooks/restore.md")


if __name__ == "__main__":
    main()
