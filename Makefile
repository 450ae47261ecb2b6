# `make run` sets everything up and runs the pipeline on the demo images; `make test` sets up and tests.
# The first interpreter that runs and has the module venv; `make run PYTHON=/path/to/python3.12` takes another one.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do $$python -c \
	'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools-installed
UV := uv==0.13.9
# Sorted by their number of tests, as xdist would, the files with few and long ones came last, and one core had no work.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
COMPILE := uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --strip-extras --no-emit-index-url \
	--custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run test test-system test-system-ci test-long lint format types docs bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED) ## Run the pipeline on the synthetic demo images
	$(BIN)/python flows/pipeline.py

test: $(TOOLS) ## Run the tests
	$(PYTEST) -m "not system"

test-system: $(TOOLS) ## Run the tests that bring up servers, clusters and a notebook
	$(PYTEST) -m system

test-system-ci: $(TOOLS) ## Run the part of them that CI runs
	$(PYTEST) -m "system(ci=True)"

test-long: $(TOOLS) ## Kill runs at every step, fill their disks, fuzz all readers; takes hours
	$(BIN)/python -m tests.faults

bench: $(TOOLS) ## Measure speed and memory; takes an hour and longer
	$(BIN)/python -m tests.benchmarks.measure

lint: $(TOOLS) ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(TOOLS) ## Mend format and style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(TOOLS) ## Check types
	$(BIN)/pyright

docs: $(TOOLS) ## Generate docs/settings.md
	$(BIN)/python -m hip_mri.config.reference > docs/settings.md

lock: ## Write the lock files anew from pyproject.toml (needs uv)
	$(COMPILE) --universal --extra team --output-file requirements.lock
	$(COMPILE) --universal --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --python-platform linux --extra team --extra gpu --constraint requirements.lock \
		--output-file requirements-gpu.lock

clean: ## Remove the environment; the workspace stays
	rm -rf $(VENV)

# Each stamp is written last, so an interrupted installation starts again. Bytecode is compiled here, once: environments
# with PYTHONDONTWRITEBYTECODE=1, as most containers have it, would compile every module at every start.
define install
	@test -n "$(PYTHON)" || { echo "hip-mri needs Python 3.11, 3.12 or 3.13 with the module venv \
	(Debian: apt-get install python3-venv). Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(UV); }
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode $(1)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation \
		--config-settings editable_mode=compat --editable .
	$(BIN)/python -m compileall -q hip_mri tasks flows deployments
endef

$(INSTALLED): requirements.lock pyproject.toml
	rm -f $(TOOLS) # they are not in this lock, so they are removed
	$(call install,requirements.lock)
	touch $@

# What tests need comes on top of what users need.
$(TOOLS): requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)
	touch $(INSTALLED) $@
