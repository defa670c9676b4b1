# One command a wish, the same for people and for CI. `make help` lists them.
PYTHON ?= python3
BIN    := .venv/bin
PIP    := -m pip install --quiet --disable-pip-version-check
PROTOS := $(wildcard proto/seqserve/v1/*.proto)

# What builds the package is pinned too: older pips read the one, newer the other.
export PIP_CONSTRAINT := $(CURDIR)/constraints-build.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints-build.txt

# Tests wait more than they compute: one more at a time than there are cores keeps these busy.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 7) + 1)')
SHARED   = --numprocesses $(WORKERS) --dist worksteal

# onnxruntime reads this when it is imported.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install demo demo-batch test lint format proto proto-release bench bench-quick accuracy clean fuzz soak chaos kills overload peers reload

help: ## Lists the commands.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/installed ## Sets everything up in .venv.

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("seqserve needs Python 3.11 or newer, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## Trains, converts, proves, publishes, serves and calls a model.
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

demo-batch: install ## Scores a file of 100,000 sequences into a file, with no server.
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo-batch.sh

test: install .venv-oldest/installed .venv-proto/installed ## Runs the whole test suite.
	$(BIN)/pytest $(SHARED) -m 'not alone'
	$(BIN)/pytest -m alone
	.venv-oldest/bin/pytest $(SHARED) tests/proto tests/client

# The server and the client alone, without torch, on the oldest libraries admitted.
.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python $(PIP) --constraint constraints-oldest.txt --editable '.[server,signing]' hypothesis pytest pytest-asyncio pytest-xdist trustme
	@touch $@

# atheris brings libFuzzer, in a wheel of its own for each Python; nothing else needs it.
.venv-fuzz/installed: pyproject.toml constraints.txt constraints-fuzz.txt
	$(PYTHON) -m venv --clear .venv-fuzz
	.venv-fuzz/bin/python $(PIP) --constraint constraints.txt --constraint constraints-fuzz.txt --editable '.[server]' atheris
	@touch $@

fuzz: install .venv-fuzz/installed ## Throws millions of mutated messages and frames at decoders and servers.
	$(BIN)/python -m tests.campaigns.fuzz_decoder
	$(BIN)/python -m tests.campaigns.frames

soak: install ## Sends a million sequences with everything at once, and checks every bit.
	$(BIN)/python -m tests.campaigns.soak

chaos: install ## Kills, stops, freezes and cuts off replicas under load.
	$(BIN)/python -m tests.campaigns.chaos

overload: install ## Sends ten times what a server can do.
	$(BIN)/python -m tests.campaigns.overload

kills: install ## Kills jobs, and the replicas that answer them, at random moments.
	$(BIN)/python -m tests.campaigns.job_kills

peers: install ## Sets slow and hostile peers on a server, and measures what others notice.
	$(BIN)/python -m tests.campaigns.peers

reload: install ## Publishes versions under load, sound and damaged ones, again and again.
	$(BIN)/python -m tests.campaigns.reload
	$(BIN)/python -m tests.campaigns.reload_memory
	$(BIN)/python -m tests.campaigns.artifacts

lint: install proto-check ## Checks form, types, the order of the rooms, and the contracts.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml proto data export server client jobs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against proto/released.binpb

format: install ## Formats the code and the contracts.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write

proto: .venv-proto/installed ## Generates the stubs beside the .proto files.
	cd proto && PATH="$(CURDIR)/.venv-proto/bin:$$PATH" python -m grpc_tools.protoc -I . --python_out=. --mypy_out=quiet:. \
		$(PROTOS:proto/%=%)
	cd proto && PATH="$(CURDIR)/.venv-proto/bin:$$PATH" python -m grpc_tools.protoc -I . --grpc_python_out=. --mypy_grpc_out=quiet:. \
		$(patsubst proto/%,%,$(shell grep -l '^service ' $(PROTOS)))

.PHONY: proto-check
proto-check: proto # The committed stubs are those that the .proto files give.
	@git diff --exit-code --stat -- proto/seqserve/v1 || { echo 'the stubs differ from the .proto files: run make proto and commit'; exit 1; }
	@test -z "$$(git ls-files --others --exclude-standard proto/seqserve/v1)"

.venv-proto/installed: constraints-proto.txt
	$(PYTHON) -m venv --clear .venv-proto
	.venv-proto/bin/python $(PIP) --requirement constraints-proto.txt
	@touch $@

proto-release: install ## Makes today's contracts those that `buf breaking` holds changes against.
	$(BIN)/buf build --output proto/released.binpb

accuracy: install ## Trains on japanese-vowels with five seeds and prints the test accuracies.
	$(BIN)/python -m benchmarks.accuracy

bench: install ## Measures everything that the docs claim about speed.
	$(BIN)/python -m benchmarks

bench-quick: install ## The same, shorter and rougher.
	$(BIN)/python -m benchmarks --quick

clean: ## Removes what make made.
	rm -rf .venv .venv-fuzz .venv-oldest .venv-proto .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo
