# meshproof: the two commands are `make demo` and `make test`; both set up what is missing first.

PY := .venv/bin/python
.DEFAULT_GOAL := help

.PHONY: help setup demo test lint format unit clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: ## install what is missing (apt packages, .venv, Envoy, Toxiproxy); seconds when nothing is
	@tools/setup

demo: setup ## from nothing to a verdict on a real mesh, in minutes
	@.venv/bin/meshproof gate || [ $$? -eq 1 -o $$? -eq 3 ]

test: setup lint ## lint, types and every test of the project
	@$(PY) -m pytest

unit: setup ## the tests that need neither root nor namespaces
	@$(PY) -m pytest -m "not privileged"

lint: setup ## ruff, mypy --strict, import arrows
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo >/dev/null || .venv/bin/lint-imports --no-logo

format: setup ## let ruff fix what it can
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

clean: ## remove what setup and runs made in this folder
	@rm -rf .venv .tools out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
