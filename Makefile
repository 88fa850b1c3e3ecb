# Everything a machine with Python 3.11 or newer needs: `make demo`, `make test`. Each target sets itself up.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The first that is Python 3.11 or newer; `make PYTHON=… demo` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

# Where it is set, each of the hundreds of processes that the tests start would compile all of the sources again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: compiled demo serve test check format lint types contracts docs lock servers interop browser stories screenshots faults bench setup clean

demo: $(INSTALLED) ## Watch real models being released and rolled back (three minutes).
	$(BIN)/python -m app demo $(ARGS)

serve: $(INSTALLED) ## Run the gateway with gateway.example.yaml.
	$(BIN)/python -m app serve --config gateway.example.yaml $(ARGS)

test: $(INSTALLED) servers ## The tests, with a real PostgreSQL and Redis.
	$(BIN)/python -m pytest $(ARGS)

check: format lint types contracts test ## What a change must pass.

format: $(INSTALLED)
	$(BIN)/ruff format --check --quiet . || { echo 'formatting differs; run: $(BIN)/ruff format .'; exit 1; }

lint: $(INSTALLED)
	$(BIN)/ruff check --quiet .

types: $(INSTALLED)
	$(BIN)/mypy

contracts: $(INSTALLED)
	$(BIN)/lint-imports --no-cache

docs: $(INSTALLED) ## Write the generated parts of docs/.
	$(BIN)/python -m docs.generate

servers: $(INSTALLED)
	@$(BIN)/python -m tests.bring_servers

interop: $(INSTALLED) servers ## Real model servers and clients of other projects, in environments of their own.
	@$(BIN)/python -m tests.interop.environment
	$(BIN)/python -m pytest -m interop -n 3 --dist loadfile --timeout 600 -o faulthandler_timeout=700 $(ARGS)

browser: $(INSTALLED) ## The dashboard in a real browser.
	@$(BIN)/python -m tests.browser.environment
	$(BIN)/python -m pytest -m browser -n 0 tests/browser $(ARGS)

stories: $(INSTALLED) ## The demo and the guides, told whole as a newcomer follows them.
	$(BIN)/python -m pytest -m stories -n 2 $(ARGS)

screenshots: $(INSTALLED) ## Write docs/images while the ten minutes of README run.
	@$(BIN)/python -m tests.browser.environment
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

faults: $(INSTALLED) servers ## Killed processes, full disks, lost servers; takes long and writes docs/faults.md.
	$(BIN)/python -m tests.faults.report $(ARGS)

# The data plane as C extensions, in a tree of its own: nothing compiled ever lies beside the sources.
COMPILED := .cache/compiled/.built
compiled: $(COMPILED) ## Compile the data plane with mypyc (needs a C compiler).

$(COMPILED): $(INSTALLED) setup.py $(wildcard app/*/*.py app/domain/*/*.py)
	@rm -rf .cache/compiled build/lib* build/temp*
	@MODEL_GATEWAY_COMPILE=1 $(PIP) install --no-deps --no-build-isolation --target .cache/compiled .
	@touch $@

bench: $(COMPILED) ## Side by side with other proxies.
	$(BIN)/python -m benchmarks.peers $(ARGS)

setup: $(INSTALLED)

# Made again only when the locked dependencies or the project's own metadata change.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed; install one, or name it: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@test ! -e $(BIN)/python || $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || rm -rf $(VENV)
	@test -e $(BIN)/python || { echo 'making $(VENV) with $(PYTHON)'; $(PYTHON) -m venv $(VENV); }
	@echo 'installing the locked dependencies'
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# For every system and Python that is supported, with the hash of each file.
LOCKING := --quiet --universal --python-version 3.11 --generate-hashes --no-header
lock: $(INSTALLED) ## Resolve the dependencies of pyproject.toml anew.
	$(PIP) install uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra otel $(LOCKING) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra otel --constraints requirements.lock $(LOCKING) -o requirements.runtime.lock
	$(BIN)/uv pip compile requirements.compile.in --constraints requirements.lock $(LOCKING) -o requirements.compile.lock

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
