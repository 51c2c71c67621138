#!/bin/sh
# Makes the database cluster in an empty directory, then runs the server as this user and process.
set -eu
data=/var/lib/postgresql/data
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
user=${POSTGRES_USER:-postgres}

if [ ! -s "$data/PG_VERSION" ]; then
  secret=$(mktemp)
  trap 'rm -f "$secret"' EXIT
  printf '%s\n' "${POSTGRES_PASSWORD:?give a password}" > "$secret"
  initdb --pgdata "$data" --username "$user" --pwfile "$secret" --encoding UTF8 --locale C.UTF-8 \
    --auth-local scram-sha-256 --auth-host scram-sha-256
  rm -f "$secret"
  echo 'host all all all scram-sha-256' >> "$data/pg_hba.conf"
  # Over the socket only, until the database is there.
  export PGPASSWORD="$POSTGRES_PASSWORD"
  pg_ctl --pgdata "$data" --wait --options '-c listen_addresses= -c unix_socket_directories=/tmp' start
  if [ "${POSTGRES_DB:-$user}" != postgres ]; then
    createdb --host /tmp --username "$user" "${POSTGRES_DB:-$user}"
  fi
  pg_ctl --pgdata "$data" --wait --mode fast stop
fi
unset POSTGRES_PASSWORD PGPASSWORD
exec postgres -D "$data" -c 'listen_addresses=*' -c unix_socket_directories=/tmp "$@"
