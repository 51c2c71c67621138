#!/bin/sh
# Starts TF Serving's image, or ours, for the contract suite:
#
#   pytest tests/contract/model_server --server-command tests/contract/model_server/in_docker.sh
#
# IMAGE names the image. MODEL_ROOT is set by the suite: every path in a flag lies below it, and it is mounted under the
# same path. The host's network, because the suite chooses the ports; --init, because TF Serving alone hears no SIGTERM
# as process 1; the caller's user, because the suite's directories are the caller's.
set -eu
exec docker run --rm --init --network host --user "$(id -u):$(id -g)" \
  --volume "$MODEL_ROOT:$MODEL_ROOT" --env TF_ENABLE_ONEDNN_OPTS=0 \
  --entrypoint "${PROGRAM:-tensorflow_model_server}" "${IMAGE:-tensorflow/serving:2.20.0}" "$@"
