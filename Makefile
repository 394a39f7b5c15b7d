# Targets that run something make the virtual environment first; all they need is Python 3.11+.
.DEFAULT_GOAL := help
.PHONY: help demo test coverage slow lint types bench clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# The demo's settings: `make demo ARGS="out=runs/other"`.
ARGS ?=

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo  ## collect, learn a world, train an agent in it, play the real game: runs/demo/
	$(BIN)/worldflow demo $(ARGS)

test: $(VENV)/.test  ## the test suite on two cores, without the slow tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# A target of its own: counting lines makes the tests up to twice as slow on Python 3.11.
coverage: $(VENV)/.test  ## the test suite, counting the lines that it runs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

slow: $(VENV)/.test  ## the slow tests only
	$(BIN)/pytest -m slow --timeout 3600

lint: $(VENV)/.dev types  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.typecheck $(BIN)/mypy -p worldflow

bench: $(VENV)/.demo  ## steps per second of a world: make bench ARGS="world=runs/demo/world"
	$(BIN)/python benchmarks/step.py $(if $(ARGS),$(ARGS),world=catch long_steps=0)

# mypy knows no package-dir mapping: this farm of links shows it the installed layout.
types:
	@rm -rf .typecheck && mkdir -p .typecheck/worldflow
	@ln -s $(CURDIR)/worldflow/* $(CURDIR)/envs $(CURDIR)/agents $(CURDIR)/configs .typecheck/worldflow/

clean:  ## remove what the tools leave behind; keeps .venv and runs
	rm -rf build dist *.egg-info .typecheck .mypy_cache .ruff_cache .pytest_cache .coverage htmlcov

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --editable .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --editable '.[test]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --editable '.[dev]'
	@touch $@
