# The first command typed on a machine with CPython 3.11 or newer, make and pip sets everything up in .venv.
PYTHON ?= python3
PY := .venv/bin/python
MINUTES ?= 10

.PHONY: help demo test soak lint format clean
help:
	@echo "make demo    train the quickstart and name its report (about 3 minutes on two CPU cores)"
	@echo "make test    run the tests, on several processor cores at once"
	@echo "make soak    load data for MINUTES=$(MINUTES) while memory is watched, and check 10,000 random settings of the mixing"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove the virtual environment and caches; runs/ and data/ stay"

demo: .venv/installed
	$(PY) tools/train.py fit --config configs/quickstart.yaml

test: .venv/installed
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

soak: .venv/installed
	$(PY) -m tests.soak --minutes $(MINUTES)

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: .venv/installed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "detmix needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch .venv/installed

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
