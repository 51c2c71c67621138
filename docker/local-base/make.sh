#!/usr/bin/env bash
# Makes an image that stands in for python:3.11-slim where no container registry can be reached: Debian 12 from its
# packages, with a virtual environment first in PATH. Needs root, debootstrap and a Docker engine.
#
#   docker/local-base/make.sh [NAME]      NAME: tfs-deploy-local-base
#   docker build --network host --build-arg BASE=tfs-deploy-local-base -f docker/model-server/Dockerfile .
set -euo pipefail
name=${1:-tfs-deploy-local-base}
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,tini bookworm "$root" >"$root.log" ||
  { cat "$root.log" >&2; exit 1; }
rm -f "$root.log"
# Certificates that this machine was told to trust (a company's proxy) are needed inside, too.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
chroot "$root" python3 -m venv /opt/python
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar --directory "$root" --one-file-system --exclude=./proc/* --exclude=./sys/* --create . |
  docker import \
    --change 'ENV PATH=/opt/python/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' \
    --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' \
    --change 'CMD ["python3"]' - "$name"
