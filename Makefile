# Set-up and checks. Every target builds .venv from the pins when it is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 3
FLOORS := rbkit/*.py,rbkit/adapters/*.py,rbkit/stores/*.py,rbkit/record/*.py

.PHONY: help demo test check bench docs lab format lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rbkit needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r <(grep -A200 '^uv==' requirements.lock | awk 'NR>1 && /^[a-z0-9]/ {exit} {print}')
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## Break the sandbox and watch a runbook cure it (no server, no root)
	RBKIT_HOME=$(CURDIR)/.demo $(BIN)/rbkit demo

test: $(READY) ## Run every test; servers that are missing are skipped and named
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

check: $(READY) ## Everything that CI checks; every branch of floors 0 to 3 must be covered
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --cov --cov-branch --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=100 --include=$(FLOORS)
	$(BIN)/rbkit lint notebooks
	$(MAKE) --no-print-directory docs

docs: $(READY) ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: $(READY) ## Measure against papermill in the same run; writes benchmarks/
	$(BIN)/python benchmarks/bench.py

lab: $(READY) ## Open JupyterLab on the runbooks
	RBKIT_HOME=$(CURDIR)/.demo JUPYTER_CONFIG_PATH=$(CURDIR)/jupyter_config $(BIN)/jupyter lab --notebook-dir=$(CURDIR)

format: $(READY) ## Format the code and the notebooks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY) ## Make the pins anew
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml -o requirements.lock

clean: ## Remove what was built
	rm -rf $(VENV) .demo docs/_build .pytest_cache .mypy_cache .ruff_cache
