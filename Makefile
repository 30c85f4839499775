# Two commands: `make demo` and `make test`. Everything else is a part of them, or an extra.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	if $$name -c '$(SUPPORTED)' 2>/dev/null; then echo $$name; break; fi; done)

# DVC starts `l2p` by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format source flow ui ablations soak faults clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

demo: $(INSTALLED) ## Convert the embedded source end to end: every stage that has work, then the figures.
	$(BIN)/dvc repro
	$(BIN)/l2p summary

# Two workers of one thread each: more of either would compete on a small machine.
test: $(INSTALLED) ## The default tests: no GPU, no network.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED) ## The tests that take minutes each.
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED) ## Format, lint, types and import contracts; and, never failing, known vulnerabilities.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy -p bench
	$(BIN)/lint-imports
	-@$(BIN)/python -m bench.audit

format: $(INSTALLED) ## Format the code and correct what lint can.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

source: $(INSTALLED) ## Train the embedded source again (hours on two cores; resumable).
	$(BIN)/python -m l2p.shapes.recipe

ablations: $(INSTALLED) ## The paper's questions on the embedded source: a table with intervals (an hour; resumable).
	$(BIN)/python -m bench.ablations --out ablations

soak: $(INSTALLED) ## Kill a training twenty times and compare its weights bit for bit.
	$(BIN)/python -m bench.soak

faults: $(INSTALLED) ## Disturb a small conversion a hundred times and count what is not as it must be (hours; resumable).
	nice $(BIN)/python -m bench.faults --work build/faults

flow: $(INSTALLED) ## The pipeline as a Prefect flow.
	$(BIN)/python -m flows.conversion

ui: $(INSTALLED) ## Prefect and MLflow with schedules, on loopback; ports: make ui UI="--prefect-port 4201".
	exec $(BIN)/python -m flows.ui $(UI)

clean: ## Remove every result of the pipeline, the registry too; sources and the environment stay.
	rm -rf data models reports mlruns mlflow.db dvc.lock .dvc/cache .dvc/tmp

# Runs once, and again when pyproject.toml changes.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or run make PYTHON=/path/to/it"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
