# Every target does its own set-up; a machine needs Python 3.11 or later with pip, and make. Nothing is compiled.
#
#   make demo        the whole incident on an embedded PostgreSQL; ends with the report's path
#   make lab         JupyterLab on the notebooks
#   make test        format, lint, types, tests, and the notebooks cell by cell against their saved outputs
#   make lint        the first three of these
#   make venues      hundreds of readings of a venue whose answers go wrong, and what 200,000 fills take; some minutes
#   make faults      an apply and a rollback struck by every fault at every moment, and what was left; about two hours,
#                    or fewer cases: make faults SWEEPS=cut-apply,locks STEP=100
#   make doors       every statement that tries to get around the doors, doors made less strict, and what they cost
#   make notebooks   run the notebooks on the demo and save their outputs in place
#   make lock        resolve the dependencies again and write requirements.lock
#   make clean       delete the environment and the caches; reports stay
#
# PYTHON=/path/to/python names the interpreter; without it the first of these that is new enough is taken.

PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13 python3.14,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet

.PHONY: demo lab test lint venues faults doors notebooks lock clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/recon demo

lab: $(READY)
	$(BIN)/recon lab

test: lint
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg tests notebooks

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy recon

venues: $(READY)
	$(BIN)/python tests/venue/fault_runs.py

SWEEPS := all
STEP := 1

faults: $(READY)
	$(BIN)/python tests/faults/fault_runs.py $(SWEEPS) $(STEP)

doors: $(READY)
	$(BIN)/python tests/doors/figures.py

notebooks: $(READY)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--KernelManager.transport_encryption=required notebooks/*.ipynb

$(READY): requirements.lock pyproject.toml
	$(if $(PYTHON),,$(error No Python 3.11 or later was found: install one, or name it with make PYTHON=...))
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	$(PIP) --python $(BIN)/python install --require-hashes --only-binary :all: --requirement requirements.lock
	$(PIP) --python $(BIN)/python install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

# The lock holds every platform's wheels (--universal), so that one file serves Linux and macOS.
lock:
	$(if $(PYTHON),,$(error No Python 3.11 or later was found: install one, or name it with make PYTHON=...))
	$(PYTHON) -m venv --clear --without-pip .venv-lock
	$(PIP) --python .venv-lock/bin/python install 'uv>=0.9,<1'
	echo 'hatchling>=1.27,<2' | .venv-lock/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --extra test --generate-hashes --only-binary :all: --no-annotate --no-header \
		--upgrade --output-file requirements.lock pyproject.toml -
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find recon tests -name __pycache__ -prune -exec rm -rf {} +
