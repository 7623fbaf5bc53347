# The two commands of a fresh clone: `make demo` and `make test`. Each makes the environment first.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# scripts/find_python.sh prints a Python that TensorFlow 2.15 supports, or says that there is none.
PYTHON ?= $(shell sh scripts/find_python.sh)

# Processes that run tests side by side; each takes up to 2 GB. Files keep their order: by number of
# tests, as pytest-xdist has it, those with the longest tests come last and one process waits.
TEST_PROCESSES ?= 2

.PHONY: demo test test-kernels test-slow parity lint figures env clean

# Tests that train layers, and a step of every architecture.
KERNEL_TESTS := tests/layers tests/pixel_decoders tests/training/test_train_step.py

demo: $(STAMP)
	$(BIN)/python scripts/demo.py --output_dir=demo

test: $(STAMP)
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -q -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Training with the kernels of oneDNN and with TensorFlow's own, whichever is this machine's default.
test-kernels: $(STAMP)
	@for onednn in 0 1; do \
	  echo "TF_ENABLE_ONEDNN_OPTS=$$onednn"; \
	  TF_ENABLE_ONEDNN_OPTS=$$onednn TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -q -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(KERNEL_TESTS) || exit 1; \
	done

# Long proofs, left out of `make test`.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

# Tests against recorded reference numbers alone; fails where those are absent.
parity: $(STAMP)
	DEEPLAB_REQUIRE_SHARED=1 $(BIN)/python -m pytest -q -m parity

lint: $(STAMP)
	$(BIN)/ruff check .

# Measures of the code: sizes, arrows between packages, documentation, tests, words.
figures: $(STAMP)
	@$(BIN)/python scripts/house_figures.py

env: $(STAMP)

$(STAMP): setup.py pyproject.toml $(wildcard protos/*.proto)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.9, 3.10 or 3.11 found (TensorFlow 2.15 needs one): install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the package and what it needs into $(VENV); this takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23"
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $(STAMP)

clean:
	rm -rf build demo *.egg-info .pytest_cache .ruff_cache
