#!/bin/sh
# `backup.sh once` makes a full backup of the databases in /backups/base, and removes what is older than BACKUP_DAYS: base
# backups, and the log before the oldest of them. `backup.sh daily` does so now and then every 24 hours.
set -eu
backups=/backups
days=${BACKUP_DAYS:-14}

once() {
  name=$(date -u +%Y-%m-%dT%H-%M-%SZ)
  # Complete or not there at all.
  rm -rf "$backups"/base/.*.part
  pg_basebackup --username=postgres --pgdata="$backups/base/.$name.part" --format=plain --wal-method=stream --checkpoint=fast
  sync
  mv "$backups/base/.$name.part" "$backups/base/$name"
  find "$backups/base" -mindepth 1 -maxdepth 1 -type d -mtime "+$days" ! -name "$name" -exec rm -rf {} +
  oldest=$(ls "$backups/base" | sort | head -n 1)
  first=$(sed -n 's/^START WAL LOCATION: .*(file \(.*\))$/\1/p' "$backups/base/$oldest/backup_label")
  pg_archivecleanup "$backups/log" "$first"
  echo "backup $name is complete; the oldest is $oldest"
}

case "${1:-}" in
  once) once ;;
  daily)
    trap 'exit 0' TERM INT
    while true; do
      once || echo "the backup failed: it is tried again in an hour" >&2
      delay=86400
      [ -n "$(find "$backups/base" -mindepth 1 -maxdepth 1 -type d ! -name '.*' -mtime -1 2> /dev/null)" ] || delay=3600
      sleep "$delay" & wait $!
    done
    ;;
  *) echo "usage: backup.sh once|daily" >&2; exit 2 ;;
esac
