# Everything runs in .venv, which `make setup` makes and every other target makes sure of.
#   make setup PYTHON=python3.12   another interpreter, >= 3.11 (remove .venv first to change it)
#   make setup UV=                 pip even where uv is installed
#   make test  JOBS=4              so many test processes (default 2; 0: all in one)
#   make test  TESTS=tests/losses  a part of the tests
#   make test  PYTEST_FLAGS=-x     further flags of pytest

PYTHON ?=
UV     ?= $(shell command -v uv 2>/dev/null)
JOBS   ?= 2
TESTS  ?= tests
PYTEST_FLAGS ?=

VENV   := .venv
READY  := $(VENV)/.ready
RUN    := $(VENV)/bin/python -m
PYTEST := $(RUN) pytest -q -n $(JOBS) --dist loadfile --durations=10 $(PYTEST_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo rehearsal notebooks test test-all lint types

help:
	@echo 'make setup     make .venv; install the pinned requirements and this project into it'
	@echo 'make demo      train a Meta Flow Map on scanned digits; write runs/demo/report.html'
	@echo 'make rehearsal the ImageNet experiments at toy size, on CIFAR-10 in $$MFM_DATA_DIR; runs/rehearsal'
	@echo 'make notebooks write notebooks/*.ipynb, for Jupyter and Colab'
	@echo 'make test      run the fast tests'
	@echo 'make test-all  run all tests, those marked slow too'
	@echo 'make lint      check style and format with ruff, types with mypy'
	@echo 'make types     check types alone'
	@echo 'Variables (PYTHON, UV, JOBS, TESTS, PYTEST_FLAGS): see the head of the Makefile.'

setup: $(READY)

demo: $(READY)
	$(RUN) experiments.demo --workdir=runs/demo

rehearsal: $(READY)
	$(RUN) experiments.rehearsal --workdir=runs/rehearsal

notebooks: $(READY)
	$(VENV)/bin/python notebooks/convert.py

test: $(READY)
	$(PYTEST) -m 'not slow' $(TESTS)

test-all: $(READY)
	$(PYTEST) $(TESTS)

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

types: $(READY)
	$(RUN) mypy

# ---- the environment ----

ifeq ($(strip $(UV)),)
  NEEDS    := venv, ensurepip
  HAS      := pip
  NEW_VENV  = $$python -m venv $(VENV)
  INSTALL  := $(RUN) pip install --quiet --disable-pip-version-check
  DURATION := one or two minutes
  HINT     := the reason stands above
else
  NEEDS    := sys
  HAS      := sys
  NEW_VENV  = $(UV) venv --quiet --seed --python "$$($$python -c 'import sys; print(sys.executable)')" $(VENV)
  INSTALL  := $(UV) pip install --quiet --python $(VENV)/bin/python
  DURATION := half a minute
  HINT     := uv does not read the configuration files of pip, make setup UV= installs with pip
  # It does not read pip's environment either: what is set there is handed on in uv's terms.
  space := $(subst ,, )
  comma := ,
  ifdef PIP_INDEX_URL
    export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
  endif
  ifdef PIP_EXTRA_INDEX_URL
    export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
    export UV_INDEX_STRATEGY ?= unsafe-best-match
  endif
  ifdef PIP_FIND_LINKS
    export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
  endif
  ifdef PIP_CERT
    export SSL_CERT_FILE ?= $(PIP_CERT)
  endif
endif

# A candidate may exist and not work (a version manager's stub, a Python without its venv module), so each is run.
CANDIDATES = $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
SUPPORTED := import sys, $(NEEDS); sys.exit(sys.version_info < (3, 11))

# Redone when what is to be installed changes. The stamp is touched last: a broken installation is tried again.
$(READY): requirements.txt setup.cfg
	@set -eu; \
	trap 'status=$$?; [ $$status = 0 ] || echo "make setup failed; $(HINT)." >&2' EXIT; \
	if ! $(VENV)/bin/python -c 'import sys, $(HAS); sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  found=; \
	  for python in $(CANDIDATES); do \
	    if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'Python >= 3.11 with its venv module is needed; none works of: $(CANDIDATES).' >&2; \
	    echo 'On Debian or Ubuntu: apt install python3 python3-venv. Elsewhere: make setup PYTHON=<interpreter>.' >&2; \
	    trap - EXIT; exit 1; \
	  fi; \
	  rm -rf $(VENV); \
	  $(NEW_VENV); \
	fi; \
	echo "Installing into $(VENV) for $$($(VENV)/bin/python -V) ($(DURATION)) ..."; \
	$(INSTALL) -r requirements.txt; \
	$(INSTALL) --no-deps --no-build-isolation -e .; \
	touch $@; \
	echo 'Ready: $(VENV).'
