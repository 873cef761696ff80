# Two commands: `make run` serves the web app, `make test` checks the project.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt

.PHONY: run test test-all lint format clean

run: .venv/.run
	$(BIN)/parley serve

test: lint
	$(BIN)/pytest

test-all: lint
	$(BIN)/pytest -m "slow or not slow"

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Parley needs Python 3.11 or newer, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv .venv

# The stamps make a second run quick: nothing is installed again until one of these files changes.
.venv/.run: pyproject.toml .ci/constraints.txt | $(BIN)/python
	@echo "Installing Parley into .venv (once; a few minutes) ..."
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable .
	@touch $@

.venv/.test: .venv/.run
	@echo "Installing the development tools into .venv ..."
	$(INSTALL) --editable '.[dev]'
	@touch $@
