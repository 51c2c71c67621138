#!/bin/sh
# Starts the model server as the entry point of tensorflow/serving does; what is given after the image's name is appended,
# and the last of two equal flags counts. Unlike there, the server takes the place of this shell, so SIGTERM reaches it.
set -eu
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \
  --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
