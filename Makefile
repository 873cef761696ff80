# Two commands: `make run` serves the web app, `make test` checks the project.
PYTHON ?= python3
BIN := .venv/bin
IN_PARALLEL := -n 2 --dist loadfile
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt

.PHONY: run test test-all lint format clean

run: .venv/.run
	$(BIN)/python app.py serve

test: lint
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-all: lint
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "slow or not slow" --hypothesis-profile thorough

lint: .venv/.test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: .venv/.test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf .venv

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Parley needs Python 3.11 or newer; this is " + sys.version)'
	$(PYTHON) -m venv --clear .venv || { echo "No virtual environment: install Python's venv (Debian: python3-venv)."; exit 1; }
	@touch $@

# The stamps make a second run quick: nothing is installed again until one of these files changes.
.venv/.run: pyproject.toml .ci/constraints.txt | .venv/.created
	@echo "Installing Parley into .venv (once; a few minutes) ..."
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable .
	@touch $@

.venv/.test: .venv/.run
	@echo "Installing the development tools into .venv ..."
	$(INSTALL) --editable '.[dev]'
	@touch $@
