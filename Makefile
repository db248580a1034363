# make demo    record a real run on a small cluster and print the report
# make test    the whole test suite
# make core    its core on other Pythons on this machine, and on the oldest Dask and OpenTelemetry
# make check   lint, format and types
# make bench   measure every budget and print the table; make bench-quick takes two minutes
# make servers install the servers that some tests start (collector, Jaeger, storages, …)
# make docs    generate tables of the pages in docs, Grafana dashboards and alert rules from the code
# make semconv generate the constants of names, and all tables of names, from semconv/
# make chaos   kill recorded programs at random moments; N=1000 for more of them
# make matrix  check what a real collector receives from every combination of set-ups (10 minutes)
# make fuzz    damage runs and try every command on them; N=100000 for more of them
#
# Each installs what it needs in .venv first. PYTHON=… chooses the interpreter.

SHELL := /bin/sh
.SUFFIXES:
.DEFAULT_GOAL := help

# The first that runs: a version manager may list versions that it cannot start. Evaluated only when
# the environment is made.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
		&& { echo $$python; break; }; done)
N ?= 100
MATRIX ?= all

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# An environment whose interpreter is gone, or that was made in another place, is made anew.
ifneq ($(shell $(BIN)/python -c "print(open('$(VENV)/.made').read())" 2>/dev/null),$(CURDIR))
$(shell rm -f $(VENV)/.made $(VENV)/.demo $(VENV)/.dev)
endif

.NOTPARALLEL:
.PHONY: help demo test core check format bench bench-quick chaos matrix fuzz servers semconv docs clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.demo
	@$(BIN)/scalable demo

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(ARGS)

core: $(VENV)/.dev
	@$(BIN)/python tests/core.py $(ARGS)

check: $(VENV)/.dev
	@failed=0; \
	$(BIN)/ruff check --quiet . || failed=1; \
	$(BIN)/ruff format --quiet --check . || failed=1; \
	$(BIN)/pyright || failed=1; \
	exit $$failed

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks $(ARGS)

# Fails on counts only (lost, dropped, memory, bytes), never on time.
bench-quick: $(VENV)/.dev
	@$(BIN)/python -m benchmarks --quick $(ARGS)

chaos: $(VENV)/.dev
	@CHAOS_N=$(N) $(BIN)/python -m pytest -m chaos $(ARGS)

matrix: $(VENV)/.dev
	@MATRIX=$(MATRIX) $(BIN)/python -m pytest tests/servers/test_matrix.py $(ARGS)

# If atheris is installed, it guides the damage; FUZZ="N SEED" repeats cases by number.
fuzz: $(VENV)/.dev
	@cd tests && ../$(BIN)/python -m fuzz $(if $(FUZZ),$(FUZZ),$(N))

# Some are built once, which takes minutes; they are kept outside the tree.
servers:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) tests/servers/install.py $(ARGS)

semconv: $(VENV)/.dev
	@$(BIN)/python -m semconv.generate $(ARGS)
	@$(MAKE) --no-print-directory docs

docs: $(VENV)/.dev
	@$(BIN)/python collector-config/dashboards.py $(ARGS)
	@$(BIN)/python collector-config/alerts.py $(ARGS)
	@$(BIN)/python docs/reference.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-core dist build

$(VENV)/.made:
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or newer with venv and ensurepip was found." >&2; \
		echo "Install one (Debian, Ubuntu: apt-get install python3-venv), or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ($(PYTHON))"
	@$(PYTHON) -m venv --clear $(VENV)
	@printf '%s' '$(CURDIR)' >$@

# Two sizes of the same environment; the larger one includes what the demo needs.
$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	@echo "Installing the package and what the demo needs; a minute or two when nothing is cached"
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing the package and what its tests need; some minutes when nothing is cached"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.demo
