.PHONY: install demo test test-all test-harness lint
PY := .venv/bin/python
MINUTES ?= 20
export GOMP_SPINCOUNT ?= 20000

install:
	@$${PYTHON:-python3} tools/install.py

demo: install  ## both stages on the sample, with evaluations and a report, in MINUTES minutes after installation
	@$(PY) -m rl.cli demo --minutes $(MINUTES)

# Two processes with one thread each: on two cores, two processes with two threads each would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: install lint  ## fast suite; its last lines are its ten slowest tests and how long it took
	$(PYTEST) -m "not slow" --durations=10

test-all: install lint  ## fast and slow suite (real engines, training, end to end)
	$(PYTEST)

test-harness: install  ## our task in other harnesses with 40 items each, where `make test-all` takes eight
	SYNTHPERT_HARNESS_ITEMS=10 $(PYTEST) tests/slow/test_harnesses.py tests/slow/test_inspect.py

lint: install
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
