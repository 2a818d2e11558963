# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need in .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two test processes of one thread each: torch's own threads would only get into each other's way,
# and spinning while they wait would cost the other process its core.
WORKERS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-interop check lint types fast acceptance bench browser docs clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "armillary needs Python 3.11 or newer; set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(READY)  ## make .venv with everything the project needs

demo: $(READY)     ## harvest, fit, study and look, on the embedded model and real text; prints the report's path last
	@$(BIN)/armillary demo $(ARGS)

test: $(READY)     ## the whole test suite
	$(PYTEST) -m "not acceptance"

check: lint types fast  ## lint, types and the fast tests, in under three minutes

lint: $(READY)     ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)    ## mypy, strict
	$(BIN)/mypy

fast: $(READY)     ## the tests that take seconds
	$(PYTEST) -q -m "not slow and not browser and not acceptance"

test-interop: $(READY)  ## our files in sae-lens, dictionary-learning and sparsify, and theirs here; builds an environment for each
	$(BIN)/python tests/interop/run.py

acceptance: $(READY)  ## the experiments of the research notes at full size
	$(PYTEST) -n 0 -m acceptance

bench: $(READY)    ## the benchmarks, against peers in environments of their own
	$(BIN)/python benchmarks/bench.py $(ARGS)

browser:         ## Debian's chromium, for the tests that open a page
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

docs: $(READY)     ## the pages and figures that are made from the code
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m armillary.app.cli.reference > docs/reference/cli.md
	$(BIN)/python docs/reference/make_api.py > docs/reference/api.md
	$(BIN)/python docs/figures/make.py

format: $(READY)   ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## forget the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
