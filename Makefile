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
.PHONY: help install demo demo-batch test test-containers lint lint-deploy locks format proto proto-release bench bench-quick bench-jobs bench-containers bench-fleet accuracy clean fuzz fuzz-quick soak chaos kills overload peers reload

help: ## Lists the commands.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

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

test: install .venv-crds/installed .venv-oldest/installed .venv-proto/installed ## Runs the whole test suite.
	$(BIN)/pytest $(SHARED) -m 'not alone and not containers'
	$(BIN)/pytest -m alone
	.venv-oldest/bin/pytest $(SHARED) tests/proto tests/client

test-containers: install ## Builds the images and tries them in containers, with an engine that runs.
	$(BIN)/pytest -m containers --durations 10

.PHONY: images
images: install # What those tests begin with, and a look at what was built.
	$(BIN)/pytest --quiet tests/containers/test_images.py -k says_what_it_is

# What images are built of: each file that it may come by, for every platform, has its hash.
UV_LOCK = $(BIN)/uv pip compile --quiet --custom-compile-command 'make locks' --no-annotate --generate-hashes \
	--python-version 3.11 --constraint constraints.txt
SERVE   = pyproject.toml --extra server --extra signing --extra otel

locks: install ## Writes down anew, from constraints.txt, what the images are built of.
	$(UV_LOCK) --universal $(SERVE) --output-file server/requirements-onnxruntime.txt
	echo 'onnxruntime-gpu[cuda,cudnn]' | $(UV_LOCK) --universal $(SERVE) - --no-emit-package onnxruntime \
		--output-file server/requirements-onnxruntime-gpu.txt
	$(UV_LOCK) --universal pyproject.toml --extra jobs --extra server --output-file jobs/requirements.txt
	echo 'ray[default]' | $(UV_LOCK) --universal pyproject.toml - --extra ray --output-file jobs/requirements-ray.txt
	@# Torch comes from an index of its own, and with it CUDA's libraries where it needs them: on macOS it has none.
	MACOSX_DEPLOYMENT_TARGET=14.0 $(UV_LOCK) --python-platform macos pyproject.toml --extra export --extra signing \
		--no-emit-package torch --output-file export/requirements.txt
	grep '^torch==' constraints.txt >export/requirements-torch.txt
	printf 'cyclonedx-bom\nhatchling\n' | $(UV_LOCK) --universal - --constraint constraints-build.txt \
		--output-file requirements-build.txt

# The server and the client alone, without torch, on the oldest libraries admitted.
.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python $(PIP) --constraint constraints-oldest.txt --editable '.[server,signing,otel]' dnslib hypothesis pytest pytest-asyncio pytest-xdist trustme
	@touch $@

.PHONY: test-s3
test-s3: install .venv-s3/installed ## Runs the tests of jobs in an object store, with a server and a client of its own.
	PYTHONPATH=.venv-s3 $(BIN)/pytest tests/jobs/storage/test_s3.py

.venv-s3/installed: .venv/installed constraints-s3.txt
	rm -rf .venv-s3
	$(BIN)/python $(PIP) --no-deps --target .venv-s3 --requirement constraints-s3.txt
	@touch $@

# atheris brings libFuzzer, in a wheel of its own for each Python; nothing else needs it.
.venv-fuzz/installed: pyproject.toml constraints.txt constraints-fuzz.txt
	$(PYTHON) -m venv --clear .venv-fuzz
	.venv-fuzz/bin/python $(PIP) --constraint constraints.txt --constraint constraints-fuzz.txt --editable '.[server]' atheris
	@touch $@

fuzz: install .venv-fuzz/installed ## Throws millions of mutated messages and frames at decoders and servers.
	$(BIN)/python -m tests.campaigns.fuzz_decoder
	$(BIN)/python -m tests.campaigns.frames

fuzz-quick: install .venv-fuzz/installed ## The same for some seconds, at the decoders alone.
	$(BIN)/python -m tests.campaigns.fuzz_decoder --quick

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

lint-deploy: install .venv-crds/installed ## Checks Dockerfiles, Compose files and manifests of clusters.
	$(BIN)/hadolint */Dockerfile deploy/*/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose*.yml
	@if command -v promtool >/dev/null; \
	  then promtool check config deploy/observe/prometheus.yml && promtool test rules deploy/observe/rules/tests/*.yml; \
	  else echo 'promtool is not installed: the rules are not checked'; test "$${CI:-}" != true; fi
	$(BIN)/python -m deploy.lint.manifests $(if $(CRDS),--crds $(CRDS))
	PATH="$(CURDIR)/$(BIN):$$PATH" .venv-crds/bin/python -m deploy.lint.custom_resources

# The types of KServe and of the Prometheus operator. They ask for older libraries than ours.
.venv-crds/installed: constraints-crds.txt
	$(PYTHON) -m venv --clear .venv-crds
	.venv-crds/bin/python $(PIP) --no-deps --requirement constraints-crds.txt
	@touch $@

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

bench: install ## Measures what the docs claim about the speed of models and server.
	$(BIN)/python -m benchmarks

bench-quick: install ## The figures of the scheduler alone, shorter and rougher.
	$(BIN)/python -m benchmarks --quick

bench-jobs: install ## Measures batch jobs, in this process, by a service and on Ray.
	$(BIN)/python -m benchmarks.jobs
	$(BIN)/python -m benchmarks.pages

bench-containers: install ## Measures images and containers, with an engine that runs.
	$(BIN)/python -m benchmarks.containers
	$(BIN)/python -m benchmarks.pages

bench-fleet: install ## Simulates fleets of replicas under load, faults and rollouts.
	$(BIN)/python -m benchmarks.fleet
	$(BIN)/python -m benchmarks.pages

clean: ## Removes what make made.
	rm -rf .venv .venv-crds .venv-fuzz .venv-oldest .venv-proto .venv-s3 .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo
