#!/bin/sh
# Starts one part of Airflow: `api-server`, `scheduler`, ... ADMIN_PASSWORD (or the file ADMIN_PASSWORD_FILE) is that of
# the user `admin`; it goes to a file that only this user can read, and not on to Airflow's environment.
set -eu
umask 077
if [ -n "${ADMIN_PASSWORD_FILE:-}" ]; then
  ADMIN_PASSWORD=$(cat "$ADMIN_PASSWORD_FILE")
fi
if [ -n "${ADMIN_PASSWORD:-}" ]; then
  file=$AIRFLOW_HOME/passwords.json
  ADMIN_PASSWORD=$ADMIN_PASSWORD python -c \
    'import json, os, sys; json.dump({"admin": os.environ["ADMIN_PASSWORD"]}, sys.stdout)' > "$file"
  export AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS=admin:admin
  export AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE="$file"
  unset ADMIN_PASSWORD ADMIN_PASSWORD_FILE
fi
umask 022
exec airflow "$@"
