# install, demo, test: each sets up .venv when needed; a second call installs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
LOCKED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
JOBS ?= 2
DEMO_ARGUMENTS ?=
TORTURE_ARGUMENTS ?=

.PHONY: install install-locked lock demo test lint docs torture clean

install: $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dozan needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dozan into $(VENV) (once; about 1 GB with torch) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV) (once) ..."
	$(PIP) --editable '.[test]'
	@touch $@

# The same with every file compared with its SHA-256 before it is used. A torch that is there already stays.
install-locked: $(VENV)/.installed-locked

$(VENV)/.installed-locked: requirements.lock requirements-torch.lock | $(BIN)/python
	$(BIN)/python -c 'import torch' 2>/dev/null || $(LOCKED) --requirement requirements-torch.lock
	$(LOCKED) --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.installed

lock:
	$(BIN)/python -m scripts.lock

demo: $(VENV)/.installed
	$(BIN)/dozan demo $(DEMO_ARGUMENTS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

docs: $(VENV)/.installed-test
	$(BIN)/python -m scripts.docs_reference
	$(BIN)/mkdocs build --strict

torture: $(VENV)/.installed-test
	cd tests && OMP_NUM_THREADS=1 TRITON_INTERPRET=1 HF_HUB_OFFLINE=1 PYTHONPATH=..:. \
		../$(BIN)/python -m torture --jobs $(JOBS) $(TORTURE_ARGUMENTS)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
