# make check    what must hold before a commit, in the current environment
# .ci/run       the same from nothing, in a fresh virtual environment
PYTHON ?= python

.PHONY: check test lowest fuzz kill audit bench docs wheel clean

check:
	ruff check .
	ruff format --check .
	mypy
	pytest

test:
	pytest

# The oldest releases that pyproject.toml allows, in a virtual environment of their own.
lowest:
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/pip install --quiet --constraint .ci/lowest.txt ".[test]"
	build/lowest/bin/pytest

# Inputs that nobody meant, to every reader, sheet, small language, command and server; SEED says which.
fuzz:
	$(PYTHON) tests/trust/fuzz.py --seconds 300 $(if $(SEED),--seed $(SEED))

# Commands stopped at random moments: no process lives on, no file is half there.
kill:
	$(PYTHON) tests/trust/kills.py --kills 200 $(if $(SEED),--seed $(SEED))

# Known weaknesses of what is installed, where a registry tells of them.
audit:
	.ci/audit

bench:
	pytest -n 0 -m bench -s tests/bench

docs:
	$(PYTHON) docs/generate.py
	$(PYTHON) docs/notebook.py

# The wheel is built from the unpacked sdist: nothing left behind in build/ can get in.
wheel:
	rm -rf dist
	$(PYTHON) -m build

# A strict editable install lives in build/: install again afterwards.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
