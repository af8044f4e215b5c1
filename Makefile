# `make demo` and `make test` do all set-up themselves; PYTHON chooses the interpreter of the venv,
# WORKERS how many processes run tests (a core each, at most 8: each takes about 1.5 GB).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= logical
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format clean

help:
	@echo "make demo      install, then edit the demo cat; results in outputs/demo"
	@echo "make test      install, then lint and run the tests that take seconds"
	@echo "make test-all  that and the long tests; compiles the CUDA kernels where nvcc is"
	@echo "make lint      check format and style"
	@echo "make format    format the code and apply safe fixes"
	@echo "make clean     remove caches and build leftovers ($(VENV) and outputs stay)"

# pip is the last thing that a new environment gets: without it the creation was interrupted.
$(STAMP): setup.py
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes several minutes."
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m scripts.edit experiment=demo_cat_ears output=outputs/demo

test: lint
	$(PYTEST)

test-all: test
	$(PYTEST) -m slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
