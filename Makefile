# Needs make and Python 3.11 or newer, nothing else: uv comes with `make setup` where it is absent.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
TOOLS := .tools
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
RUN := $(UV) run --no-sync
# Outside PATH, so that recipes and what they start find the same uv.
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)
# Tests with processes share few cores: a wait that ran out is tried once more, and named (0087).
PYTEST := $(RUN) python -m pytest --reruns 1 --only-rerun Timeout
# Somebody else's activated environment is not ours.
unexport VIRTUAL_ENV

.PHONY: help setup demo up check test bench lint unit

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/synced ## Install everything that the other targets need (they call it themselves)
	@:

$(TOOLS)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@echo "Installing uv into $(TOOLS)/ …"
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'

.venv/synced: pyproject.toml uv.lock | $(UV)
	@$(UV) sync --locked --compile-bytecode
	@touch $@

demo: setup ## 10,000 requests against a misbehaving upstream, then report, address and login (ONCE=1 ends there)
	@exec $(RUN) manage.py demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(SEARCH),--search $(SEARCH))

up: setup ## Run all processes without demo data until Ctrl-C
	@exec $(RUN) manage.py up

check: setup lint unit ## The fast part: format, lint, types, layers, migrations, deployment, unit tests

lint:
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) manage.py makemigrations --check --dry-run
	$(RUN) bash .ci/check-deploy

unit:
	$(PYTEST) -n 3 -m "not live and not browser and not faults"

test: check ## Everything, with real services
	$(PYTEST) -n 2 --dist loadfile -m "(live or browser or faults) and not alone"
	$(PYTEST) -m alone

bench: setup ## Speed beside peers, into bench/results.md (LONG=1 adds what takes many minutes)
	@$(UV) sync --locked --inexact --quiet --group bench
	@exec $(RUN) python -m bench $(if $(filter-out 0,$(LONG)),--long) $(if $(filter-out 0,$(QUICK)),--quick)
