# Targets create a virtual environment from PyPI when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One test process for each core.
PARALLEL := -n auto --dist worksteal
# For test-newest: the newest installed Python from 3.12 on, which the newest JAX needs.
NEWEST ?= $(shell ls $$HOME/.pyenv/versions/3.1[2-9]*/bin/python3 2>/dev/null | sort -V | tail -1)
ifeq ($(strip $(NEWEST)),)
NEWEST := $(firstword $(shell command -v python3.14 python3.13 python3.12) python3)
endif

.PHONY: demo test test-slow test-accelerator test-newest test-clients test-reference test-wheel lint docs bench bench-quick bench-check clean

demo: $(VENV)/.train
	$(BIN)/python -m train.image digits-mixer

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL)

# Those of lcjax compile more than they run; those of train and benchmarks run for minutes. Those of
# tests/accelerator run here on the CPU, so that they are known to run.
test-slow: $(VENV)/.dev
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" \
	  $(BIN)/python -m pytest $(PARALLEL) -m slow tests/lcjax lcjax
	$(BIN)/python -m pytest $(PARALLEL) -m slow --ignore tests/lcjax tests
	REQUIRE_ACCELERATOR=0 $(BIN)/python -m pytest $(PARALLEL) tests/accelerator

# Tiny models on a GPU or TPU, for which JAX is installed in the environment; fails without one.
test-accelerator: $(VENV)/.dev
	JAX_PLATFORMS= REQUIRE_ACCELERATOR=1 $(BIN)/python -m pytest -m "" tests/accelerator

test-newest:
	@$(NEWEST) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	  { echo "the newest JAX needs Python 3.12 or newer: make NEWEST=python3.13 test-newest"; exit 1; }
	$(MAKE) PYTHON=$(NEWEST) VENV=$(VENV)-newest upgrade
	$(VENV)-newest/bin/python -m pytest -m "" tests/lcjax/transform

# Models of other libraries, in an environment of their own; compiled without optimizations.
test-clients:
	@$(NEWEST) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	  { echo "the clients need Python 3.12 or newer: make NEWEST=python3.13 test-clients"; exit 1; }
	$(MAKE) PYTHON=$(NEWEST) VENV=$(VENV)-clients $(VENV)-clients/.clients
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" REQUIRE_CLIENTS=1 \
	  $(VENV)-clients/bin/python -m pytest -m "" tests/clients

# Tests that compare with PyTorch and transformers, in an environment of their own. Those of timm and
# torchvision skip: a torchvision has to be of the same build as torch.
test-reference:
	$(MAKE) VENV=$(VENV)-reference $(VENV)-reference/.reference
	$(VENV)-reference/bin/python -m pytest $(PARALLEL) -rs -m "" tests/benchmarks/pytorch \
	  tests/benchmarks/accelerator tests/lcjax/interop tests/lcjax/folder/test_reference.py

# Installs the wheel in an environment without extras, as users do.
test-wheel:
	$(PYTHON) -m venv --clear $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check .
	cd $(VENV)-wheel && bin/lcjax --help >bin/help && bin/python -c \
	  'import lcjax.interop, lcjax.models, pathlib; assert pathlib.Path(lcjax.__file__).with_name("py.typed").is_file()'

.PHONY: upgrade
upgrade: $(VENV)/.models
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade jax flax optax

# Takes hours, in parts that resume; bench-quick takes minutes and writes to runs/.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.dev
	$(BIN)/python -m benchmarks --quick

# Minutes: ratios of times against those in benchmarks/results/check.json; stored anew on another
# machine by python -m benchmarks.check --store.
bench-check: $(VENV)/.dev
	$(BIN)/python -m benchmarks.check

# Pages, executed notebooks and API, warnings as errors, in an environment of their own; then the
# examples in the pages. Needs no network but for the installation.
DOCS := $(VENV)-docs/bin/sphinx-build --fail-on-warning --keep-going -d docs/_build/doctrees
docs:
	$(MAKE) VENV=$(VENV)-docs $(VENV)-docs/.docs
	JAX_PLATFORMS=cpu $(DOCS) -b html docs docs/_build/html
	JAX_PLATFORMS=cpu $(DOCS) -b doctest docs docs/_build/doctest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-clients $(VENV)-reference $(VENV)-docs $(VENV)-wheel docs/_build docs/api/generated runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lcjax needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train]'
	touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,dev]'
	touch $@

$(VENV)/.clients: pyproject.toml tests/clients/requirements.txt $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
	  --requirement tests/clients/requirements.txt --editable .
	touch $@

$(VENV)/.reference: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[train,dev,torch]' 'transformers>=4.57,<5'
	touch $@

$(VENV)/.docs: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(VENV)/.models: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,dev,models]'
	touch $@
