# One command a wish, the same for people and CI.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STUBS  := $(wildcard proto/seqserve/v1/*.proto)

.PHONY: install demo test test-oldest lint format proto proto-release bench bench-quick accuracy clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqserve needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
