PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check unit test-cuda fidelity versions format benchmarks reports reports-cuda docs generate columns clean

demo: $(INSTALLED)
	$(BIN)/gradprobe run --force -o handbook.gradprobe examples/handbook.py
	$(BIN)/gradprobe report handbook.gradprobe
	$(BIN)/gradprobe report --force handbook.gradprobe -o handbook.html
	$(BIN)/gradprobe compare --suite models --budget 40 --force -o models.json -o models.md -o models.html

test: check unit

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-cuda: $(INSTALLED)
	$(BIN)/python -m pytest -m cuda

fidelity: $(INSTALLED)
	GRADPROBE_TESTS=thorough $(BIN)/python -m pytest -n 2
	$(BIN)/python -m tests.fidelity.matrix
	$(BIN)/python -m tests.fidelity.killing 200

# For example: make versions PYTHONS="old/bin/python new/bin/python" TESTS=capture,recording
versions: $(INSTALLED)
	$(BIN)/python -m tests.versions $(if $(TESTS),--tests $(TESTS)) $(PYTHONS)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

columns: $(INSTALLED)
	$(BIN)/python -m gradprobe.tables.column_reference

benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/blocks.py --write
	$(BIN)/python benchmarks/instructions.py
	$(BIN)/python benchmarks/operators.py --write
	$(BIN)/python benchmarks/plugin.py
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/reporting.py

reports: $(INSTALLED)
	$(BIN)/python reports/make_reports.py

reports-cuda: $(INSTALLED)
	$(BIN)/python reports/make_reports.py --cuda

# The site, in build/site; it needs no network, neither to be built nor to be read.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --clean

# The parts of the documentation that come from the code.
generate: $(INSTALLED)
	$(BIN)/python docs/generate.py --picture

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gradprobe needs Python 3.10 or newer; name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'pip>=24'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/gradprobe build-core
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.gradprobe handbook.html models.json models.md models.html
