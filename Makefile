# `make benchmark` and `make test` build their own virtual environment when there is none.
# Another one: `make test VENV=path/to/venv`.

VENV ?= .venv
PYTHON ?= python3
BENCHMARK_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: benchmark test check lint types spelling docs format install

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.grid $(BENCHMARK_ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: lint types spelling docs test

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

spelling: $(STAMP)
	$(BIN)/codespell

# Into build/site. A broken link, anchor or reference is an error; the variable silences a note about other tools.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

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
