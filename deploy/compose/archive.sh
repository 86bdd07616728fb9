#!/bin/sh
# PostgreSQL's archive_command, `archive.sh PATH NAME`: a file of its log into /backups/log, compressed, because most of a
# file that was closed after a minute is empty. After a crash the database may archive a file once more; that succeeds if
# it is the same. https://www.postgresql.org/docs/current/continuous-archiving.html
set -eu
log=${BACKUPS:-/backups}/log
target="$log/$2.gz"
if [ -f "$target" ]; then
  gzip -dc "$target" | cmp -s - "$1"
  exit
fi
gzip -c "$1" > "$target.part"
sync "$target.part"
mv "$target.part" "$target"
sync "$log"
