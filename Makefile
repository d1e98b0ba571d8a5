# Each target sets up .venv by itself, and again when the lock has changed.
# A machine needs Python 3.11 to 3.14 and nothing else.

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
DATA ?=
SEED ?= 1

IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$python && break; done)
endif

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PROJECT := --no-deps --no-build-isolation --editable .

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults lint format types bench lock clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.dev ## Set up .venv with everything for development.

demo: $(VENV)/.run ## Play a day through everything: DATA=FILE for recorded calls, ARGS=--exit-when-done.
	@exec $(BIN)/andon demo $(if $(DATA),--data '$(DATA)') $(ARGS)

test: $(VENV)/.dev ## Run all tests, in two processes; ARGS="-m 'not integration'" for the quick ones.
	@exec $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

faults: $(VENV)/.dev ## Kill, pause and cut everything for twenty minutes, and compare: SEED=n.
	@exec $(BIN)/python -m tests.faults --seed $(SEED) $(ARGS)

lint: $(VENV)/.dev ## Check style and format.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { \
		echo 'not formatted (above or below); run: make format'; $(BIN)/ruff format --check .; exit 1; }

format: $(VENV)/.dev ## Mend style and format.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.dev ## Check types.
	@$(BIN)/mypy

bench: $(VENV)/.dev ## Measure throughput and latency, and run the reference job beside other engines.
	@exec $(BIN)/andon bench $(ARGS)

# What holds on every supported platform is no condition: pip would skip a package where it should
# say that there is none for this platform.
EVERYWHERE := ; python_full_version < '3.15' and ((platform_machine == 'aarch64' and sys_platform == 'linux') or (platform_machine == 'x86_64' and sys_platform == 'linux') or sys_platform == 'darwin')
COMPILE = $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-annotate \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
UV ?= uv
# What the benchmark runs beside us, each in an environment of its own.
PEERS := deploy/bench/peers/bytewax deploy/bench/peers/quix
COMPILE_PEER = $(UV) pip compile $$peer/requirements.in --no-config --quiet --upgrade --universal \
	--python-version 3.11 --no-annotate --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' --output-file $$peer/requirements.txt

lock: ## Pin the newest versions that pyproject.toml allows; needs uv (UV=path).
	@$(COMPILE) --upgrade --extra local --extra build --extra bench --extra dev --output-file requirements-dev.txt
	@$(COMPILE) --extra local --extra build --constraints requirements-dev.txt --output-file requirements.txt
	@sed -i.old "s/ $(EVERYWHERE)//" requirements.txt requirements-dev.txt
	@rm requirements.txt.old requirements-dev.txt.old
	@for peer in $(PEERS); do $(COMPILE_PEER) || exit; done

clean: ## Remove .venv and caches.
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Everything for development holds what running needs, at the same versions.
$(VENV)/.run: requirements.txt pyproject.toml
	$(call install,requirements.txt,230 MB)
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml
	$(call install,requirements-dev.txt,280 MB)
	@touch $@ $(VENV)/.run

define install
@test -n "$(PYTHON)" || { echo 'Python 3.11 to 3.14 is needed and not on the PATH; name it: make PYTHON=/path/to/python3.12' >&2; exit 2; }
@$(BIN)/python -c 'import pip; $(IS_SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
@echo 'setting up $(VENV) from $(1) (about $(2) to fetch if nothing is cached)'
@$(PIP) install --require-hashes --requirement $(1)
@$(PIP) install $(PROJECT)
endef
