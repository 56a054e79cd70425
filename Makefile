# make demo    train a network that grows from hidden widths of 4 on real digits
# make test    the tests
# make check   format, lint, types and tests
# make deep    the laws on thousands of random programs each, every invariant checked; takes hours
# All set up .venv first: Python 3.11 or newer and make are all that is needed.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
WORKERS ?= auto
LAWS ?= tests/properties tests/passes/preservation tests/test_checking.py

.PHONY: demo test slow deep check format lint types wheel docs clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/pytest -q -n $(WORKERS) -m "not slow"

slow: $(READY)
	$(BIN)/pytest -q -n $(WORKERS) -m slow

deep: $(READY)
	IRGROW_PROFILE=deep IRGROW_CHECK=3 $(BIN)/pytest -q -n $(WORKERS) --timeout 0 $(LAWS)
	IRGROW_PROFILE=deep IRGROW_CHECK=3 $(BIN)/pytest -q -n $(WORKERS) --timeout 0 -k "laws or check_pass" tests/passes/rewrites

check: format lint types test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

wheel: $(READY)
	.ci/wheel $(BIN)/python

docs: $(READY)
	$(BIN)/python docs/catalogue.py
	$(BIN)/python docs/operators.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "irgrow needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
