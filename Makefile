# make quickstart   install into .venv, train a small model for a few minutes, write a report
# make test         install into .venv, run the test suite
# make lint         ruff (rules and format) and pyright
#
# Variables:
#   PYTHON           the interpreter that makes .venv (default python3, 3.11 or newer)
#   TORCH_INDEX_URL  package index to take torch from, for example one that serves CPU-only or other
#                    accelerator builds; by default torch comes from pip's own index like the rest
#   ARGS             more arguments for `rectiflow quickstart` or pytest: make test ARGS="-k scenes"

PYTHON ?= python3
TORCH_INDEX_URL ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.DELETE_ON_ERROR:
.PHONY: quickstart test lint install clean

quickstart: $(STAMP)
	$(BIN)/rectiflow quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(STAMP)

# torch goes first, alone: once the wanted build is in place, the ranges of everything else are
# satisfied by it, and no second copy (gigabytes) is fetched.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed (set PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH) -c constraints.txt $(if $(TORCH_INDEX_URL),--no-deps --index-url $(TORCH_INDEX_URL))
	$(BIN)/python -m pip install --quiet -e '.[dev,ode]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
