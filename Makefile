# make demo     train a small language model on the Python documentation, and talk to it
# make test     run the tests
# make install  only create .venv with Langwright in it
# make lint     style and types
# make bench    the measurements behind BENCHMARKS.md
#
# Each creates .venv and installs what it needs; nothing else has to be typed.

PYTHON ?= python3
VENV   ?= .venv
RECIPE ?= recipes/quickstart.toml
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test install lint bench clean help

demo: install
	$(BIN)/langwright run $(RECIPE)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy langwright

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run_all.py

install: $(VENV)/.user

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n 1,7p

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: made again only when the dependencies change.
$(VENV)/.user: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Langwright needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another with: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Langwright into $(VENV) (once; PyTorch is large) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	@echo "Installing the test and lint tools into $(VENV) (once) ..."
	@$(PIP) -e ".[test,lint]"
	@touch $@
