PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test faults check install clean

demo: $(READY)  ## the whole job on a small world with known truth
	$(BIN)/vitatlas demo demo

test: $(READY)  ## all tests, on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal

faults: $(READY)  ## more than a hundred kills: for how long, see docs/explanation/reliability.md
	PYTHONPATH=tests $(BIN)/python tests/faults/matrix.py --out faults.jsonl

check: $(READY)  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
