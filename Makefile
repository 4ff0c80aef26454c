# `make demo` and `make test` set up everything they need, their own virtual environment included.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Shapes and types of arguments are checked while the tests run: of most modules, in `make sweep` of all.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal
MOST := --jaxtyping-packages=$$($(BIN)/python -m tests.shapes)
ALL := --jaxtyping-packages=foretune.gradients,foretune.kernels,foretune.analysis,beartype.beartype

.PHONY: demo lint test check sweep docs format schema benchmark clean

demo: $(READY)
	$(BIN)/foretune forecast smollm2 movies --k 16 --test 64 --json demo.json

lint: $(READY)
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/pyright

check: lint
	$(PYTEST) $(MOST) -m "not slow and not sweep"

test: $(READY)
	$(PYTEST) $(MOST) -m "not sweep"

sweep: $(READY)
	$(PYTEST) $(ALL) -m sweep

docs: $(READY)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

format: $(READY)
	$(BIN)/ruff check --fix src tests benchmarks examples docs
	$(BIN)/ruff format src tests benchmarks examples docs

schema: $(READY)
	$(BIN)/python -m foretune.pages.schema

benchmark: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps nngeometry==0.4
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.memory
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install --quiet -c constraints.txt . bergson==2.5.1 dattri-llm==0.1.0 backpack-for-pytorch==1.7.1
	build/peers/bin/python -m pip uninstall --quiet --yes torchvision torchaudio  # bergson's, of another build of torch
	build/peers/bin/python -m benchmarks.peers --out docs/results/peers.md

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e ".[dev,docs]"
	touch $(READY)

clean:
	rm -rf $(VENV) build/peers demo.json docs/_build docs/reference/generated docs/jupyter_execute
