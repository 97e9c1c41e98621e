# Everything here sets itself up: `make demo` and `make test` need Python, make and a package index, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-all prove prove-all field chaos soak bench bench-quick mutate lint format types figures clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.example ## See a product service and two caches that follow it, over the wire, in under a minute
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev ## Run all tests, with branch coverage
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal --cov --cov-report=term # they wait more than they work

test-all: ## Run all tests on each of Python 3.10 to 3.13 that is found
	./run-on-each-python

prove: $(VENV)/.dev ## Prove the promise on the production code: every schedule, every mutant, a million random writes (minutes)
	$(BIN)/python -m verification.proof

prove-all: $(VENV)/.dev ## The same with histories of three saves and ten million random writes (an hour or two)
	$(BIN)/python -m verification.proof --all

field: $(VENV)/.dev ## Compare with the usual ways, under the same faults (minutes)
	$(BIN)/python -m verification.proof.field

chaos: $(VENV)/.dev ## Break everything around real workers, and count what is lost (half an hour)
	$(BIN)/python -m verification.chaos

soak: $(VENV)/.dev ## Watch a worker for half an hour, at half of its load: memory, threads and sockets must not grow
	$(BIN)/python -m verification.chaos soak

bench: $(VENV)/.dev ## Measure against the libraries that others use, each in an environment of its own (half an hour)
	$(BIN)/python -m verification.benchmarks

bench-quick: $(VENV)/.dev ## The same in a minute or two, against loops on boto3 only
	$(BIN)/python -m verification.benchmarks --quick

mutate: $(VENV)/.dev ## Change the code in small ways, and see that the tests notice (ten minutes)
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

figures: $(VENV)/.dev ## Print what the library costs: per call, at import, on disk
	$(BIN)/python -m verification.benchmarks.figures

clean: ## Remove what the other targets made
	rm -rf .venv* .bench .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist mutants

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.example: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (once, about a minute)"
	$(PIP) --editable '.[example]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (once, a minute or two)"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.example
