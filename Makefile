# `make demo` and `make test` need Python 3.11 or later and nothing else: they make their own environment.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test check clean

demo: $(VENV)/installed  ## Build the model in examples/, look inside, and let it write
	PATH="$(abspath $(VENV))/bin:$$PATH" sh examples/demo.sh

test: $(VENV)/installed-dev  ## Run the tests
	$(VENV)/bin/python -m pytest $(PYTEST)

check: $(VENV)/installed-dev  ## Lint, types, import contracts
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:  ## Remove the environment and what the demonstration wrote
	rm -rf $(VENV) demo.zarr

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable ".[dev]"
	touch $@ $(VENV)/installed
