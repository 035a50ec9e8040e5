# `make benchmark` and `make test` build their own virtual environment when there is none.
# Another one: `make test VENV=path/to/venv`.

VENV ?= .venv
PYTHON ?= python3
BENCHMARK_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: benchmark test check lint types spelling format install

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.grid $(BENCHMARK_ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: lint types spelling test

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

spelling: $(STAMP)
	$(BIN)/codespell

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

# torch first: asked for alone at its pinned version, pip takes the CPU build where one is offered.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	@$(PIP) -e '.[all]'
	@touch $@
