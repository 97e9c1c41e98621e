# Every target sets itself up. It needs Python 3.10 or later, make, git and a package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Many containers set it. Each process of the tests would then compile them all again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-oldest test-under-load prove prove-all field chaos soak \
	bench bench-quick scale mutate lint format types figures picture dist clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

demo: $(VENV)/.example ## See a product service and two caches that follow it (under a minute)
	$(BIN)/python examples/demo.py

# Eight processes on any number of cores: the tests wait, too. Coverage would cost a quarter more.
test: $(VENV)/.compiled ## Run all tests; `make test COVERAGE=1` shows the branch coverage, too
	$(BIN)/python -m pytest -rs --numprocesses 8 --dist worksteal $(if $(COVERAGE),--cov --cov-report=term)

test-all: $(VENV)/.dev ## Run all tests on each of Python 3.10 to 3.13 that is found
	$(BIN)/python -m nox

test-oldest: $(VENV)/.dev ## Run the core tests with the oldest Python and dependencies that are allowed
	$(BIN)/python -m nox --session oldest

test-under-load: $(VENV)/.dev ## Run all tests ten times beside two busy loops (two hours or more)
	$(BIN)/python -m verification.harness.under_load

prove: $(VENV)/.dev ## Prove the promise: schedules, mutants, a million random writes (minutes)
	$(BIN)/python -m verification.proof

prove-all: $(VENV)/.dev ## The same with three saves and ten million random writes (an hour or two)
	$(BIN)/python -m verification.proof --all

field: $(VENV)/.dev ## Compare with the usual ways, under the same faults (minutes)
	$(BIN)/python -m verification.proof.field

chaos: $(VENV)/.dev ## Break everything around real workers, and count losses (forty minutes)
	$(BIN)/python -m verification.chaos

soak: $(VENV)/.dev ## Watch a worker's memory, threads and sockets (half an hour)
	$(BIN)/python -m verification.chaos soak

bench: $(VENV)/.dev ## Measure against the libraries that others use (half an hour)
	$(BIN)/python -m verification.benchmarks

bench-quick: $(VENV)/.dev ## The same against loops on boto3 only (a few minutes)
	$(BIN)/python -m verification.benchmarks --quick

scale: $(VENV)/.dev ## Let a thousand workers follow in virtual time, beside a model (minutes)
	$(BIN)/python -m verification.scale
	$(BIN)/python -m verification.scale.source

mutate: $(VENV)/.dev ## Change the code in small ways, and see that tests notice (hours)
	$(BIN)/python -m verification.proof.mutation

lint: $(VENV)/.dev ## Check format and style
	$(BIN)/ruff format --check
	$(BIN)/ruff check

format: $(VENV)/.dev ## Mend format and style
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

types: $(VENV)/.dev ## Check the types, with mypy and with pyright
	$(BIN)/mypy
	$(BIN)/pyright

figures: $(VENV)/.dev ## Print what the library costs, how large it is, and which tables are old
	$(BIN)/python -m verification.benchmarks.figures
	$(BIN)/python -m verification.harness.structure
	$(BIN)/python -m verification.harness.tables

picture: $(VENV)/.dev ## Draw the modules and their imports (docs/explanation/architecture.svg)
	$(BIN)/python -m verification.harness.picture

dist: $(VENV)/.dev ## Build the wheel and the sdist, and check them
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/python -m twine check --strict dist/*

clean: ## Remove what the other targets made
	rm -rf .venv* .nox .bench .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache \
		.ruff_cache build dist mutants

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Before 25.1, pip knows no dependency groups.
$(VENV)/.example: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (once, about a minute)"
	$(PIP) 'pip>=25.1'
	$(PIP) --group example --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (once, a minute or two)"
	$(PIP) 'pip>=25.1'
	$(PIP) --group dev --editable '.[cli,django,opentelemetry,postgres,prometheus,redis,sqlalchemy,verify]'
	@touch $@ $(VENV)/.example

# Each of the eight processes would compile all tests again. If one is wrong, the run itself says so.
$(VENV)/.compiled: $(VENV)/.dev $(wildcard tests/*.py tests/*/*.py)
	@$(BIN)/python -m pytest --quiet --collect-only >/dev/null || true
	@touch $@
