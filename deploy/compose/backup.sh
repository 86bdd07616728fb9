#!/bin/sh
# `backup.sh once` makes a full backup of the databases in /backups/base, and removes what is older than BACKUP_DAYS: base
# backups, and the log before the oldest of them. `backup.sh daily` does so now and then every 24 hours.
set -eu
backups=${BACKUPS:-/backups}
days=${BACKUP_DAYS:-14}

identifier_of() {
  LC_ALL=C pg_controldata "$1" | sed -n 's/^Database system identifier: *//p'
}

once() {
  exec 9> "$backups/.lock"
  flock 9
  newest=$(ls "$backups/base" | sort | tail -n 1)
  if [ -n "$newest" ]; then
    ours=$(psql --username=postgres --tuples-only --no-align --command "SELECT system_identifier FROM pg_control_system()")
    if [ "$(identifier_of "$backups/base/$newest")" != "$ours" ]; then
      echo "the backups here are of another database: restore one of them, or use another folder" >&2
      exit 1
    fi
  fi
  name=$(date -u +%Y-%m-%dT%H-%M-%SZ)
  rm -rf "$backups"/base/.*.part
  pg_basebackup --username=postgres --pgdata="$backups/base/.$name.part" --format=plain --wal-method=stream --checkpoint=fast
  sync
  mv "$backups/base/.$name.part" "$backups/base/$name"
  find "$backups/base" -mindepth 1 -maxdepth 1 -type d -mtime "+$days" ! -name "$name" -exec rm -rf {} +
  oldest=$(ls "$backups/base" | sort | head -n 1)
  first=$(sed -n 's/^START WAL LOCATION: .*(file \(.*\))$/\1/p' "$backups/base/$oldest/backup_label")
  pg_archivecleanup -x .gz "$backups/log" "$first"
  echo "backup $name is complete; the oldest is $oldest"
}

case "${1:-}" in
  once) once ;;
  daily)
    trap 'exit 0' TERM INT
    while true; do
      delay=86400
      # A shell of its own: `||` would have it go on after an error.
      sh "$0" once || { echo "the backup failed: it is tried again in an hour" >&2; delay=3600; }
      sleep "$delay" &
      wait $!
    done
    ;;
  *) echo "usage: backup.sh once|daily" >&2; exit 2 ;;
esac
