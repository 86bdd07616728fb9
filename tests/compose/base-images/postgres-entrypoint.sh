#!/bin/sh
# As the official image does: the first start makes the cluster and runs the scripts, before it can be
# reached from outside. https://github.com/docker-library/postgres/blob/master/18/trixie/docker-entrypoint.sh
set -eu
case "${1:-postgres}" in -*) set -- postgres "$@" ;; esac
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  printf '%s' "${POSTGRES_PASSWORD:-$(cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")}" > /tmp/password
  initdb --encoding=UTF8 --locale=C.UTF-8 --username=postgres --pwfile=/tmp/password --auth-host=scram-sha-256 --auth-local=trust > /dev/null
  rm /tmp/password
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start > /dev/null
  for script in /docker-entrypoint-initdb.d/*.sql; do
    psql --username=postgres --no-psqlrc --quiet -v ON_ERROR_STOP=1 -f "$script"
  done
  pg_ctl -D "$PGDATA" -w -m fast stop > /dev/null
fi
exec "$@" -c listen_addresses='*'
