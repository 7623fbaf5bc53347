# The commands of a fresh clone are `make demo` and `make test`. All targets but `clean` create the
# environment first.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# scripts/find_python.sh prints a Python that TensorFlow 2.15 supports, or nothing.
PYTHON ?= $(shell sh scripts/find_python.sh)

# Number of parallel test processes; each takes up to 2 GB. Files keep their order: sorted by number
# of tests, as in pytest-xdist, the longest tests would come last and one process would wait.
TEST_PROCESSES ?= 2

.PHONY: demo test test-kernels test-slow parity lint figures env clean

# Tests that train layers, compute losses and post-process, and a training step of every architecture.
KERNEL_TESTS := tests/layers tests/losses tests/pixel_decoders tests/postprocessing tests/transformer_decoders tests/training/test_train_step.py

demo: $(STAMP)
	$(BIN)/python scripts/demo.py --output_dir=demo

test: $(STAMP)
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -q -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Training with TensorFlow's own kernels and with oneDNN's, whatever this machine's default is.
test-kernels: $(STAMP)
	@for onednn in 0 1; do \
	  echo "TF_ENABLE_ONEDNN_OPTS=$$onednn"; \
	  TF_ENABLE_ONEDNN_OPTS=$$onednn TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -q -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(KERNEL_TESTS) || exit 1; \
	done

# Long tests, which `make test` leaves out.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

# Only the tests against recorded reference numbers; fails if the numbers are absent.
parity: $(STAMP)
	DEEPLAB_REQUIRE_SHARED=1 $(BIN)/python -m pytest -q -m parity

lint: $(STAMP)
	$(BIN)/ruff check .

# Measures of the code: sizes, imports between packages, documentation, tests, wording.
figures: $(STAMP)
	@$(BIN)/python scripts/house_figures.py

env: $(STAMP)

$(STAMP): setup.py pyproject.toml $(wildcard protos/*.proto)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.9, 3.10 or 3.11 found (TensorFlow 2.15 needs one): install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the package and its dependencies into $(VENV); the first time takes some minutes"
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23"
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $(STAMP)

clean:
	rm -rf build demo *.egg-info .pytest_cache .ruff_cache
