# python >= 3.11 and make are all that is needed. Node, where present, adds the book's own copy of MathJax and the browser tests.
#   make book | serve | test | test-book | test-weekly | test-lowest | lint | notebooks | lock | offline-bundle | test-gpu | clean
# PYTHON=python3.12        the interpreter that makes the environment (for test-gpu: the one that runs the tests)
# TORCH_BACKEND=cpu        the small CPU build of torch instead of the package index's
# SEGTUTOR_DATA=folder     where the real datasets are
# ARGS="-k fcn"            passed on to pytest by test, test-book, test-weekly, test-lowest, test-gpu
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
ARGS ?=
BUNDLE_PYTHON ?= 3.12
BIN := $(VENV)/bin
READY := $(VENV)/.segtutor-installed
UV := $(BIN)/python -m uv

# Kernels start in other folders, so a relative path would mean something else there
ifneq ($(strip $(SEGTUTOR_DATA)),)
override SEGTUTOR_DATA := $(abspath $(SEGTUTOR_DATA))
export SEGTUTOR_DATA
endif

# One torch thread a process: two on a shared machine collapse as soon as anything else runs
export OMP_NUM_THREADS = 1
# The kernel of this environment, not one that was once installed for the user
export JUPYTER_PREFER_ENV_PATH = 1

CELL_TIMEOUT := 300
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT)

.PHONY: help install book serve test test-book test-weekly test-lowest test-gpu lint notebooks repository lock offline-bundle clean distclean
.DEFAULT_GOAL := help

help:
	@sed -n '2,6s/^# //p' Makefile

install: $(READY)

# uv comes from the environment itself, so none needs to be installed; nothing runs while these two files are unchanged
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The book needs Python 3.11 or newer: name one with PYTHON=, as in: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) \
	  -c constraints.txt -e ".[book,test,train]"
	@touch $@

book: $(READY)
	@$(BIN)/python tools/book.py

serve: book
	@echo "The book is at http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# The whole suite and every notebook in one run, so that the last line is about all of it
test: $(READY)
	$(PYTEST) $(NBVAL) --ignore=tests/test_book_browser.py tests notebooks $(ARGS)

# What a reader's browser makes of the built book; needs Node and Chromium
test-book: $(READY)
	$(BIN)/python -m pytest tests/test_book_browser.py $(ARGS)

# What is too slow for every change
test-weekly: $(READY)
	$(PYTEST) -m weekly --ignore=tests/test_book_browser.py tests $(ARGS)

# The oldest versions that pyproject.toml allows, in an environment of their own
test-lowest: $(READY)
	$(BIN)/python tools/lowest.py $(ARGS)

# The interpreter as it is, with its own torch, torchvision and timm: nothing of it is replaced
test-gpu:
	@$(PYTHON) tools/test_gpu.py $(ARGS)

lint: $(READY)
	$(BIN)/python -m ruff check segtutor tests tools book
	$(BIN)/python -m ruff format --check segtutor tests tools book
	$(BIN)/python -m mypy
	$(BIN)/python tools/notebooks.py check
	$(BIN)/python -m pytest -q tests/test_style.py tests/test_notebooks.py tests/test_environment.py

notebooks: $(READY)
	$(BIN)/python tools/notebooks.py normalise

# After the address in _config.yml was changed: every file that links to the repository
repository: $(READY)
	$(BIN)/python tools/repository.py

lock: $(READY)
	$(UV) pip compile --quiet --universal --upgrade --no-header --no-annotate --python-version 3.11 \
	  --extra book --extra test --extra train pyproject.toml --output-file constraints.txt

offline-bundle: $(READY)
	@$(BIN)/python tools/offline_bundle.py --python $(BUNDLE_PYTHON)

clean:
	rm -rf _build vendor tools/node_modules offline-bundle dist book/generated .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find segtutor tests tools book -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
