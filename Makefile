# The one way in: CI, the README and people use these targets.
# `make PYTHON=python3.12 ...` chooses the interpreter that makes .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev
MUTATION := $(VENV)/.stamp-mutation

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-zA-Z_-]*:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: use make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make a virtual environment: install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

# The development install holds the runtime one, so it renews both stamps.
$(DEV): pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $(RUNTIME) $@

$(MUTATION): $(DEV)
	$(PIP) install --quiet --editable '.[mutation]'
	@touch $(RUNTIME) $(DEV) $@

.PHONY: venv
venv: $(DEV) ## Make .venv with everything that development needs

.PHONY: demo
demo: $(RUNTIME) ## Watch an election and a failover on this machine (installs the runtime only)
	$(BIN)/leaderlease demo

.PHONY: bench
bench: $(RUNTIME) ## Measure this machine against the aims: a table, and JSON in build/bench.json (some 15 minutes)
	$(BIN)/leaderlease bench --runs 5 --json build/bench.json

.PHONY: test
test: $(DEV) ## Run every test that this machine can run; ends with what was skipped and how to enable it
	$(BIN)/python -m pytest

MINUTES ?= 2
SEED ?= 0

.PHONY: chaos
chaos: $(DEV) ## Break a real quorum for MINUTES=2 as SEED=0 says (0: any), check what it did, draw it in build/; needs root
	CHAOS_SECONDS=$(SECONDS) CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) CHAOS_PICTURE=1 LEADERLEASE_REQUIRE=process \
		$(BIN)/python -m pytest -s tests/process/test_chaos.py::test_chaos

.PHONY: certmanager
certmanager: $(DEV) ## Let cert-manager's controllers issue and renew all certificates under a lease (needs go, kube-apiserver)
	tests/certmanager/build
	LEADERLEASE_REQUIRE=certmanager $(BIN)/python -m pytest tests/certmanager

.PHONY: e2e
e2e: $(DEV) ## Break the Kubernetes cluster of KUBECONFIG with LEADERLEASE_CLUSTER; figures in build/e2e.json (some 18 minutes)
	LEADERLEASE_REQUIRE=e2e $(BIN)/python -m pytest -s tests/e2e

.PHONY: coverage
coverage: $(DEV) ## Run the tests and report the lines and branches that they miss
	$(BIN)/python -m pytest --cov --cov-report=term-missing

.PHONY: sim
sim: $(DEV) ## Replay the simulated run SEED=0: who sent what when (WITHOUT ONLY ACTIVE_MS CLIENTS LEASES make it smaller)
	$(BIN)/python tests/sim/swarm.py --seed $(SEED) --without '$(WITHOUT)' --only '$(ONLY)' --leases '$(LEASES)' \
		$(if $(ACTIVE_MS),--active-ms $(ACTIVE_MS)) $(if $(CLIENTS),--clients $(CLIENTS))

.PHONY: sim-swarm
sim-swarm: $(DEV) ## Run new simulated seeds for MINUTES=2 on all cores; what fails is made smaller and printed
	$(BIN)/python tests/sim/swarm.py --minutes $(MINUTES)

SEEDS ?= 100

.PHONY: sim-mutants
sim-mutants: $(DEV) ## Leave out one rule at a time: after how many of SEEDS=100 it is noticed; MINUTES=20, and goes on
	$(BIN)/python tests/sim/mutation.py --seeds $(SEEDS) \
		--minutes $(if $(filter command line,$(origin MINUTES)),$(MINUTES),20)

.PHONY: mutants
mutants: $(DEV) ## Leave out one rule of the protocol at a time: its directed tests must fail
	$(BIN)/python tests/mutants/run.py

.PHONY: mutation
mutation: $(MUTATION) ## Change paxos/ in every small way (FILES=acceptor MINUTES=40): the score, and what no test noticed
	$(BIN)/python tests/mutants/general.py $(FILES) --minutes $(if $(filter command line,$(origin MINUTES)),$(MINUTES),40)

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: $(DEV) ## Send what nobody honest sends for FUZZ_SECONDS=60 a target: frames, messages, HTTP, settings, disks
	for target in codec messages http_node http_sidecar settings disk; do \
		$(BIN)/python tests/fuzz/run.py $$target --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)); \
	done

.PHONY: model
model: $(DEV) ## Check the TLA+ model: the rules in every state, each rule left out, traces of the code (needs java)
	PYTHON=$(BIN)/python spec/fetch-tla2tools
	LEADERLEASE_REQUIRE=model $(BIN)/python -m pytest -s tests/model

CHECK ?= three ballots in time

.PHONY: model-check
model-check: $(DEV) ## Run one large model, or one rule left out with its counterexample: CHECK=noguard (docs/model.md)
	PYTHON=$(BIN)/python spec/fetch-tla2tools
	$(BIN)/python tests/model/by_hand.py '$(CHECK)'

.PHONY: lint
lint: $(DEV) ## Check style, types and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: format
format: $(DEV) ## Rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: manifests
manifests: $(DEV) ## Render manifests/, the chart's schema and copies, and the table in docs/chart.md (needs helm)
	$(BIN)/python charts/render.py

.PHONY: docs
docs: $(DEV) ## Render docs/crd-reference.md from manifests/crd
	$(BIN)/python docs/render.py

.PHONY: wheel
wheel: $(DEV) ## Build sdist and wheel, install the wheel in a clean environment and run it
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip --disable-pip-version-check install --quiet dist/*.whl
	cd build && wheel-venv/bin/leaderlease version

.PHONY: ci
ci: ## Run what a change must pass: lint, test, mutants, wheel
	@$(MAKE) lint
	@$(MAKE) test
	@$(MAKE) mutants
	@$(MAKE) wheel

.PHONY: clean
clean: ## Remove what the targets made, except .venv
	rm -rf build dist .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find operator tests -name __pycache__ -type d -prune -exec rm -rf {} +
