# Every target creates the environment if needed. `make setup PYTHON=python3.12` chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-fast lint docs bench bench-gpu clean

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tokenloc needs Python 3.10 or newer; try: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --editable ".[dev]"  # twice: errors, but no warnings
	touch $(READY)

demo: setup
	$(BIN)/tokenloc demo --out runs/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

bench: setup
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script || exit 1; done

bench-gpu: setup
	$(BIN)/python benchmarks/_gpu.py

clean:
	rm -rf $(VENV) site runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
