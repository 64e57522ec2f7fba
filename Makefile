# The one entry for every job; .ci/run calls the same targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?=
ARGS ?=
DATA ?= ../shared/data
NATIVE := $(wildcard native/_*.pyx native/*.pxd)
export PYTHONUNBUFFERED := 1

.PHONY: help setup demo serve test check lint types contracts sanitize bench results mutants soak protos replay build wheeltest lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Options: ARGS='...' goes to demo, serve, test and bench; PYTHON=... picks the interpreter."

setup: $(VENV)/.native ## make the environment and compile native/ (every target does it first)

$(VENV)/.packages: .ci/lock.txt .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup $(VENV)
	@touch $@

$(VENV)/.native: $(VENV)/.packages setup.py pyproject.toml $(NATIVE)
	@echo "setup: compiling native/ and linking the package"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-input \
		--no-index --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## a shopper from product page to a row in PostgreSQL, then the audit
	@$(BIN)/python -m promise_svc demo $(ARGS)

serve: setup ## run the service (embedded engines unless URLs are given)
	@$(BIN)/python -m promise_svc serve $(ARGS)

test: setup ## run the tests against real engines, on all cores, a file at a time on each
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: lint types contracts ## ruff, mypy, import contracts, buf, generated code compared
	@echo "check: ok"

lint: setup
	@echo "check: ruff check" && $(BIN)/ruff check .
	@echo "check: ruff format" && $(BIN)/ruff format --check .

types: setup
	@echo "check: mypy --strict (promise_svc, loadtest)" && $(BIN)/mypy

contracts: setup
	@echo "check: import contracts" && $(BIN)/lint-imports --no-logo
	@echo "check: buf lint" && \
		if compgen -G 'protos/promise_svc/v1/*.proto' >/dev/null; then \
			$(BIN)/buf lint protos; else echo "  no protos yet"; fi
	@echo "check: generated code" && \
		if [ -f protos/generate.py ]; then $(BIN)/python protos/generate.py --check; \
		else echo "  no protos/generate.py yet"; fi

bench: setup ## measure; writes build/bench.json (ONLY=name,... runs a part)
	@$(BIN)/python -m loadtest bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

results: setup ## measure all, soak, and write loadtest/RESULTS.md (RATES=50,100,... SECONDS=300)
	@$(BIN)/python -m loadtest bench
	@$(BIN)/python -m loadtest checkout_mix --client raw --seconds 30 --rates $(or $(RATES),50,100,200,300)
	@set -o pipefail; $(BIN)/python -m loadtest.soak --seconds $(or $(SECONDS),300) | tee build/soak.log
	@$(BIN)/python -m loadtest.results build/bench.json build/loadtest/checkout_mix.json build/soak.log

mutants: setup ## break the product on purpose: every break must be noticed by a named test
	@$(BIN)/python -m tests.mutants $(ARGS)

sanitize: setup ## test the native front under the address sanitizer
	@.ci/sanitize $(VENV)

soak: setup ## seeds of the simulator, then shoppers under real faults and the audit (SECONDS=120, SEED=...)
	@$(BIN)/python -m tests.sim --seeds 1000000 --seconds $(or $(SECONDS),120) $(if $(SEED),--first $(SEED))
	@$(BIN)/python -m loadtest.soak --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED)) $(ARGS)

replay: setup ## real orders through a server of its own, then the audit (DATA=../shared/data)
	@$(BIN)/python -m loadtest.replay olist $(DATA)/olist $(ARGS)
	@$(BIN)/python -m loadtest.replay online-retail $(DATA)/online_retail $(ARGS)

protos: setup ## regenerate promise_svc/v1 from protos/
	@$(BIN)/python protos/generate.py

build: setup ## make a wheel in dist/, with libnghttp2 inside
	@rm -rf dist
	@.ci/wheel $(VENV) dist

wheeltest: setup ## build wheels with and without libnghttp2, install each, and serve from it
	@.ci/wheeltest $(VENV)

lock: ## renew .ci/lock.txt from pyproject.toml (needs a package index)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
		--no-emit-index-url --no-header --no-annotate $(ARGS) \
		--output-file .ci/lock.txt pyproject.toml

clean: ## remove the environment, builds and caches (keeps data folders)
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
		native/*.c native/*.so
	@find promise_svc native loadtest tests protos -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
