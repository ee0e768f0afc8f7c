# `make demo` and `make test` need only python3 (3.11 to 3.13), make and pip: each sets up what it uses, once.
#
# The environment is .venv: first what requirements/dev.lock pins (wheels, checked by hash), then this project, editable.

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/peers/.ready
PYTEST_ARGS ?= -n 2 --dist loadgroup

.PHONY: help setup demo test soak check docs bench lock clean
.NOTPARALLEL:

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## the environment in .venv, and nothing else

demo: $(READY) ## a whole migration of a synthetic world, from the plan through a kill to the purge, in ./demo
	@$(BIN)/migrate demo

test: $(READY) ## all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: $(READY) ## the long sweeps, seeded and bounded
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m soak --timeout 3600

check: $(READY) ## format, lint, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/unit

docs: $(READY) ## docs/spec.md and its JSON Schema, from the spec's models
	$(BIN)/python -m migrate.spec_docs

# QUICK=1: smaller data, 5 minutes. ONLY=small-objects,verify: some of the figures. ROUNDS=7: turns of each contender.
bench: $(READY) $(PEERS) ## the tool against its peers and limits, to docs/bench (hours; QUICK=1: 5 minutes)
	@PYTHONPATH=tests $(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS))

# Resolved under the oldest Python that we serve, because newer ones install what it pins, and not the other way round.
lock: $(READY) ## the files in requirements anew, from pyproject.toml and bench.in (needs Python 3.11)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "make lock: $(VENV) must be of Python 3.11: make clean lock PYTHON=python3.11" >&2; exit 1; }
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --extra dev --extra postgres --build-deps-for editable --output-file requirements/dev.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --output-file requirements/bench.lock requirements/bench.in

clean: ## drop the environment and the tools' caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A python3 without ensurepip (Debian without python3-venv) makes an environment without pip: its own pip fills it then.
$(READY): requirements/dev.lock pyproject.toml
	@set -e; python=; \
	for name in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    python=$$name; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "migrate needs Python 3.11, 3.12 or 3.13, and no python3 here is one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version), once"; \
	if $$python -m venv --clear $(VENV) >/dev/null 2>&1; then \
	  pip="$(BIN)/python -m pip"; \
	else \
	  $$python -m venv --clear --without-pip $(VENV); \
	  pip="$$python -m pip --python $(BIN)/python"; \
	fi; \
	$$pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/dev.lock; \
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The peers of the benchmarks, apart from our own libraries, of which they want other versions. rclone is among ours, for the tests.
$(PEERS): requirements/bench.lock $(READY)
	@$(BIN)/python -m venv --clear --without-pip $(VENV)/peers
	@$(BIN)/python -m pip --python $(VENV)/peers/bin/python install --quiet --disable-pip-version-check --only-binary :all: \
	  --require-hashes -r requirements/bench.lock
	@touch $@
