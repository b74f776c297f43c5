# Two commands for users: make demo, make test. The rest is for those who work on gpuprop.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs
DRY := $(CURDIR)/build/dry
# Two tests at a time: more threads inside each only get in each other's way.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 GPUPROP_THREADS=1

# What `make bench` runs in: PyTorch has to be installed there.
BENCH_PYTHON ?= $(BIN)/python
BENCH = PYTHONPATH=. $(BENCH_PYTHON) -m gpuprop bench

# The CuPy extra that fits the driver, where there is one.
CUDA_MAJOR := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p')
CUDA_EXTRA := $(if $(CUDA_MAJOR),$(if $(filter 12,$(CUDA_MAJOR)),$(comma)cuda12,$(comma)cuda13))
comma := ,

.PHONY: demo test test-full lint types docs wheel quality quality-seq2seq bench dry gpu format clean help

help:  ## what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/.demo  ## train three small models on real data and show what they learned (4 minutes)
	$(BIN)/gpuprop demo --out $(RUN)/demo

test: $(VENV)/.test  ## all tests but the long ones (6 minutes)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m "alone and not full"
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone and not full"

test-full: $(VENV)/.test  ## every test, the long ones too
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m alone
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone"

lint: $(VENV)/.dev  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## static types
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## build the guide and the API reference into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/.dev  ## build the package and test it outside the checkout
	$(BIN)/python .ci/check_wheel.py

quality: $(VENV)/.test  ## train the models of the README's quality table (about an hour on 2 cores)
	$(BIN)/python -m gpuprop.bench.quality --out $(RUN)/quality --threads 1

quality-seq2seq: $(VENV)/.test  ## train the README's encoder-decoders (hours on 2 cores; ONLY=name for one)
	GPUPROP_THREADS=1 $(BIN)/python -m gpuprop.bench.quality_seq2seq --out $(RUN)/quality $(if $(ONLY),--only $(ONLY))

bench: $(VENV)/.test  ## time steps and operations on 1 and 2 threads beside PyTorch, into README.md (10 minutes)
	mkdir -p $(RUN)
	OPENBLAS_NUM_THREADS=2 $(BENCH) --peer torch --threads 2 --json $(RUN)/bench-2.json
	OPENBLAS_NUM_THREADS=1 $(BENCH) --peer torch --threads 1 --json $(RUN)/bench-1.json
	OPENBLAS_NUM_THREADS=1 $(BENCH) --growth --threads 1 --json $(RUN)/bench-growth.json
	PYTHONPATH=. $(BENCH_PYTHON) -m gpuprop.bench.readme_table $(RUN)/bench-2.json $(RUN)/bench-1.json \
		$(RUN)/bench-growth.json README.md

dry: $(DRY)/.built  ## GPU tests on CuPy without a GPU: what it refuses, not values (a few minutes; 2 GB of downloads)
	LD_LIBRARY_PATH=$(DRY)/lib PYTHONPATH=$(DRY)/site:.:tests/dry:tests/double:tests/gpu CUPY_CACHE_DIR=$(DRY)/cache \
		$(ONE_THREAD) $(DRY)/venv/bin/python -O -m pytest --assert=plain -W ignore::pytest.PytestConfigWarning \
		-p dry_gpu -p no:cacheprovider -q -r "" --tb=no \
		-m "gpu and not full" tests/ops tests/nn tests/optim tests/capture tests/training tests/dry/programs.py

gpu:  ## GPU tests, short trainings and the bench suite with this machine's own Python; writes runs/gpu.json
	PYTHONPATH=. $(PYTHON) tests/gpu/check.py --out $(RUN)/gpu.json

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(DRY)/.built: pyproject.toml $(wildcard tests/dry/*.cpp tests/dry/*.h) tests/dry/build.py
	test -x $(DRY)/venv/bin/python || $(PYTHON) -m venv $(DRY)/venv
	$(DRY)/venv/bin/python -m pip install --quiet -e ".[cuda13,emulator]" \
		"cython>=3.2,<3.3" hypothesis pytest pytest-timeout setuptools
	$(DRY)/venv/bin/python tests/dry/build.py $(DRY)
	touch $@

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[plots$(CUDA_EXTRA)]"
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test$(CUDA_EXTRA)]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@
