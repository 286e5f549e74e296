# The whole workflow. Needs Python 3.11+, git, make and the package registries; nothing else.
#
#   make lab              set up and run the main job (ARGS=--once: exit 0 or 1 at the end)
#   make test             every gate: format, lint, types, layers, tests
#   make check            the quick subset, before each commit
#   make coverage         every branch of events and graph is run by their tests
#   make addresses        how much of a module the test file that is named for it runs, alone
#   make long             long simulations and interop on top, and addresses
#   make bench            figures, never pass or fail on time
#
# The environment `.venv` is made on first use and brought up to date when the lock or Python changes.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& { command -v $$p; break; }; done)
BIN := .venv/bin
JOBS ?= 2
ARGS ?=
# The tests of these run by themselves, with every branch that they take noted.
COVERED := tests/federation/events tests/federation/graph
# The homeserver that ours federates with; its tests make `.venv-synapse` on first use.
SYNAPSE := tests/interop/synapse
# The bridges that run beside ours; their tests make `.venv-bridges` on first use.
BRIDGES := tests/interop/appservices

.DEFAULT_GOAL := help
.PHONY: help environment lab test check coverage addresses long bench format lock clean

help:
	@sed -n '3,11s/^# \{0,1\}//p' Makefile

environment:
	@test -n "$(PYTHON)" || { echo "Freehold needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" .ci/environment

lab: environment
	@$(BIN)/freehold-lab story $(ARGS)

test: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not long and not bench" $(COVERED:%=--ignore=%) $(ARGS)
	@$(MAKE) --no-print-directory coverage

coverage: environment
	$(BIN)/coverage run -m pytest -q -p no:xdist -m "not long and not bench" $(COVERED)
	$(BIN)/coverage report

check: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m "not long and not bench and not processes" -x $(ARGS)

addresses: environment
	$(BIN)/python -m tests.architecture.measure_addresses $(ARGS)

long: environment
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not bench" $(ARGS)
	@$(MAKE) --no-print-directory addresses ARGS=

bench: environment
	$(BIN)/pytest -m bench -s $(ARGS) || [ $$? -eq 5 ]  # 5: there is nothing to measure yet

format: environment
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header \
		--group dev pyproject.toml -o requirements-dev.lock --upgrade
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header \
		$(SYNAPSE)/requirements.in -o $(SYNAPSE)/requirements.lock --upgrade
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header \
		$(BRIDGES)/requirements.in -o $(BRIDGES)/requirements.lock --upgrade

clean:
	rm -rf .venv .venv-synapse .venv-bridges .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
