# Everything installs by itself into .venv; a second run does not install again.
# Another interpreter: make install PYTHON=python3.12

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-pythons test-scale lint bench images up down clean

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
# Where the demo keeps its versions: disk, or s3 (an S3 server, two model servers with a sync agent each).
STORE ?= disk
# Processes that run tests side by side.
WORKERS ?= 2
# How often a test that failed is tried again; each time is named at the end of the run.
RERUNS ?= 0
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.10; do \
	if "$$name" -c '$(SUPPORTED)' 2>/dev/null; then echo "$$name"; break; fi; done)
FAST := not tensorflow and not airflow and not faults and not docker and not scale
BIN := .venv/bin
PYTEST := $(BIN)/pytest --reruns $(RERUNS)
STAMP := .venv/installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

help:
	@echo 'make install       virtual environment .venv with everything, from constraints.txt'
	@echo 'make demo          train, export, publish, load, validate, promote, refuse and roll back, run by Airflow;'
	@echo '                   with STORE=s3 on two model servers that share no disk'
	@echo 'make lint          ruff, mypy and the import contracts'
	@echo 'make test          lint and all tests'
	@echo 'make test-fast     the tests that need no TensorFlow, no Airflow and no Docker'
	@echo 'make test-pythons  those of the base package, on every other Python from 3.10 to 3.13 of this machine'
	@echo 'make test-scale    30 deployments at once by Airflow with Celery; needs the Debian packages postgresql and redis-server'
	@echo 'make bench         the figures of benchmarks/'
	@echo 'make up            the whole stack in Docker; with LOCAL=1 on images that this machine builds itself'
	@echo 'make down          stop it and remove everything of it'
	@echo 'make clean         remove what the other targets wrote, except .venv and .venv-3.*'

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z '$(PYTHON)' ]; then \
		echo 'No Python 3.10 to 3.13 was found; name one: make install PYTHON=/path/to/python3.12' >&2; exit 2; fi
	@[ -x $(BIN)/python ] || '$(PYTHON)' -m venv .venv
	@echo 'Installing into .venv; this takes some minutes.'
	@# Dependency groups need a recent pip.
	$(PIP) --upgrade pip
	@# The distribution was called tfs-deploy once; two of them would register the plugin twice.
	@$(BIN)/python -m pip uninstall --yes -qq tfs-deploy
	$(PIP) -e '.[all]' --group dev
	@touch $(STAMP)

demo: install
	@$(BIN)/python -m tfs_deploy.demo.run --store $(STORE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: install
	$(PYTEST) -n $(WORKERS) -m '$(FAST)'

test-pythons: install
	@WORKERS=$(WORKERS) RERUNS=$(RERUNS) .ci/pythons

test: lint test-fast
	$(PYTEST) -n $(WORKERS) --dist loadfile -m 'tensorflow and not airflow and not docker'
	$(PYTEST) -n $(WORKERS) --dist loadfile -m 'airflow and not docker'
	$(PYTEST) -n $(WORKERS) -m faults
	$(PYTEST) -n $(WORKERS) --dist loadfile -m docker

test-scale: install
	$(PIP) --group scale
	$(PYTEST) -s -m scale tests/scale

bench: install
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

# LOCAL=1 reaches the script from make's command line.
images:
	docker/stack.sh images

up: images
	docker/stack.sh up

down:
	docker/stack.sh down

clean:
	rm -rf .demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find plugins dags tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
