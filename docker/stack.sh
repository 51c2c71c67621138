#!/usr/bin/env bash
# The images and the stack of docker/compose.yaml.
#
#   docker/stack.sh env       make docker/.env with fresh secrets, unless it is there
#   docker/stack.sh images    build the images
#   docker/stack.sh up        start everything and wait until it is healthy
#   docker/stack.sh down      stop and remove everything, volumes too
#   docker/stack.sh ...       any other command of docker compose: ps, logs, exec ...
#
# LOCAL=1: on images that this machine makes itself, where no registry can be reached.
# COMPOSE_PROJECT_NAME (tfs-deploy), AIRFLOW_PORT (8080), GATEWAY_PORT (8081), WAIT_SECONDS (600).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-tfs-deploy}
# docker-compose gives up on an engine that is busy for a minute.
export COMPOSE_HTTP_TIMEOUT=${COMPOSE_HTTP_TIMEOUT:-300}
ENV_FILE=${ENV_FILE:-.env}
if [[ ${LOCAL:-} == 1 ]]; then
  set -a
  # shellcheck source=local.env
  . ./local.env
  set +a
fi

compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose --env-file "$ENV_FILE" "$@"
  elif command -v docker-compose >/dev/null; then
    docker-compose --env-file "$ENV_FILE" "$@"
  else
    echo 'Neither "docker compose" nor docker-compose is installed.' >&2
    return 2
  fi
}

secret() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

make_env() {
  [[ -e $ENV_FILE ]] && return
  (
    umask 077
    {
      echo "# Made by docker/stack.sh; for you alone."
      for name in POSTGRES_PASSWORD ADMIN_PASSWORD GATEWAY_KEY S3_KEY_ID S3_SECRET API_SECRET_KEY; do
        echo "$name=$(secret)"
      done
      echo "JWT_SECRET=$(secret)$(secret)"
      # Fernet wants 32 bytes in the URL-safe alphabet.
      echo "FERNET_KEY=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"
    } >"$ENV_FILE.new"
  )
  mv "$ENV_FILE.new" "$ENV_FILE"
}

build() { # FOLDER NAME BASE [ARGUMENT ...]
  local folder=$1 name=$2 base=$3
  shift 3
  docker build --network host --build-arg "BASE=$base" -f "$folder/Dockerfile" -t "$name" "$@" ..
}

# One after the other, and no further where one fails.
airflow_images() {
  build airflow tfs-deploy-airflow "$AIRFLOW_BASE" --target light &&
    build airflow tfs-deploy-local-packages "$AIRFLOW_BASE" --target export-packages &&
    build airflow tfs-deploy-airflow-export "$AIRFLOW_BASE" --target export &&
    build model-server tfs-deploy-model-server "$MODEL_SERVER_BASE"
}

light_images() {
  build postgres tfs-deploy-postgres "$PYTHON_BASE" &&
    build s3 tfs-deploy-s3 "$PYTHON_BASE" &&
    build deployer tfs-deploy "$PYTHON_BASE" &&
    build gateway tfs-deploy-gateway "$PYTHON_BASE"
}

images() {
  if [[ ${LOCAL:-} != 1 ]]; then
    make_env
    compose build
    return
  fi
  docker image inspect "$PYTHON_BASE" >/dev/null 2>&1 || local-base/make.sh "$PYTHON_BASE"
  # Downloads of one chain, compiling of the other.
  light_images &
  local light=$! failed=0
  airflow_images || failed=1
  wait "$light" || failed=1
  return "$failed"
}

unhealthy() { # names of services that run and are not healthy (yet), or ended badly
  local id
  for id in $(compose ps -q); do
    docker inspect --format '{{index .Config.Labels "com.docker.compose.service"}} {{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}:{{.State.ExitCode}}{{end}}' "$id"
  done | grep -v -e ' healthy$' -e ' exited:0$' || true
}

up() {
  make_env
  compose up --detach --no-build
  local end=$((SECONDS + ${WAIT_SECONDS:-600})) left
  while left=$(unhealthy) && [[ -n $left ]]; do
    if ((SECONDS > end)); then
      echo "Not healthy after ${WAIT_SECONDS:-600} s: $(tr '\n' ',' <<<"$left")" >&2
      return 1
    fi
    sleep 2
  done
  echo "Airflow:  http://127.0.0.1:${AIRFLOW_PORT:-8080}  user admin, password: ADMIN_PASSWORD of docker/$ENV_FILE"
  echo "Gateway:  http://127.0.0.1:${GATEWAY_PORT:-8081}  key: GATEWAY_KEY of docker/$ENV_FILE"
}

case ${1:-} in
  env) make_env ;;
  images) images ;;
  up) up ;;
  down) make_env && compose down --volumes --remove-orphans --timeout 20 ;;
  '') sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' stack.sh ;;
  *) make_env && compose "$@" ;;
esac
