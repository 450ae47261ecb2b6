# `make run` sets everything up and runs the pipeline on the demo images; `make test` sets up and tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILE := uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --strip-extras --no-emit-index-url \
	--custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run test test-system test-long lint format types bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## Run the pipeline on the synthetic demo images
	$(BIN)/python flows/pipeline.py

# Sorted by their number of tests, as xdist would, the files with few and long ones came last, and one core had no work.
test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not system"

test-system: $(STAMP) ## Run the tests that bring up servers, clusters and a notebook
	$(BIN)/python -m pytest -m system

test-long: $(STAMP) ## Kill runs at every step, fill their disks, fuzz all readers; takes hours
	$(BIN)/python -m tests.faults

bench: $(STAMP) ## Measure speed and memory; takes an hour and longer
	$(BIN)/python -m tests.benchmarks.measure

lint: $(STAMP) ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP) ## Mend format and style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## Check types
	$(BIN)/pyright

lock: ## Write requirements.lock and requirements-gpu.lock anew from pyproject.toml (needs uv)
	$(COMPILE) --universal --extra dev --output-file requirements.lock
	$(COMPILE) --python-platform linux --extra dask --extra gpu --constraint requirements.lock \
		--output-file requirements-gpu.lock

clean: ## Remove the environment; the workspace stays
	rm -rf $(VENV)

# The stamp is written last, so an interrupted installation starts again.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--require-hashes -r requirements.lock -c requirements.lock # as constraints, the pins also hold for extras
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=compat --editable .
	touch $(STAMP)
