.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench clean

VENV := .venv
PYTHON_BIN := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
TEST_WORKERS := 2
UNFINISHED := $(VENV)/.unfinished

# Prepared data sets beside the checkout are used where nothing else is said.
ifndef TFDS_DATA_DIR
TFDS_BESIDE := $(shell cd ../shared/tfds 2>/dev/null && pwd)
ifneq ($(TFDS_BESIDE),)
export TFDS_DATA_DIR := $(TFDS_BESIDE)
endif
endif

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Flags of a target's program go in ARGS, as in: make demo ARGS='--seed=1'"

setup: $(STAMP)  ## make .venv and install into it (PYTHON=... names the interpreter)

# A setup that did not finish leaves $(UNFINISHED), and is begun again from nothing:
# pip would take a package it had half copied for an installed one.
$(STAMP): pyproject.toml constraints.txt
	@if [ -e $(UNFINISHED) ] || ! $(PYTHON_BIN) -c \
	    'import sys, pip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
	    rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && \
	    python=$$(PYTHON='$(PYTHON)' sh scripts/find_python.sh) && \
	    echo "Making $(VENV) with $$python" && "$$python" -m venv $(VENV); \
	fi
	@touch $(UNFINISHED)
	@echo "Installing into $(VENV); this takes a minute or more"
	@$(PYTHON_BIN) -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt -e '.[dev]'
	@touch $@ && rm -f $(UNFINISHED)

demo: $(STAMP)  ## distil an ensemble into one network, in a minute
	$(PYTHON_BIN) -m experiments.compress_ensemble $(ARGS)

test: $(STAMP)  ## run the tests, two files at a time (TEST_WORKERS=...)
	$(PYTHON_BIN) -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile \
	    --no-loadscope-reorder $(ARGS)

lint: $(STAMP)  ## check style and formatting
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check .

bench: $(STAMP)  ## run the benchmarks
	$(PYTHON_BIN) -m experiments.benchmarks $(ARGS)

clean:  ## delete caches and build files (.venv and runs/ stay)
	rm -rf build dist .hypothesis .pytest_cache .ruff_cache
	find kd experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
