.PHONY: install demo test test-all lint
PY := .venv/bin/python
export GOMP_SPINCOUNT ?= 20000

install:
	@$${PYTHON:-python3} tools/install.py

demo: install  ## both stages on the sample, evaluated and reported
	@$(PY) -m rl.cli demo

test: install lint  ## fast suite
	$(PY) -m pytest -q -m "not slow"

test-all: install lint  ## fast and slow suite: real engines, training, end to end
	$(PY) -m pytest -q

lint: install
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
