PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check unit test-cuda fidelity sanitize versions format benchmarks reports reports-cuda docs generate columns wheels clean

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

fidelity: $(INSTALLED) sanitize
	GRADPROBE_TESTS=thorough $(BIN)/python -m pytest -n 2
	$(BIN)/python -m tests.fidelity.matrix
	$(BIN)/python -m tests.fidelity.killing 200

# The observer of operators with AddressSanitizer and UndefinedBehaviorSanitizer: what they find ends the tests. It is compiled for
# minutes, into a folder of its own. Python's own allocator would hide its objects from the sanitizers.
SANITIZED := TORCH_EXTENSIONS_DIR=$(CURDIR)/$(VENV)/sanitized \
	CXX='c++ -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined'
NATIVE_TESTS := tests/capture/ops tests/capture/pipeline tests/property/test_operators.py tests/fidelity/test_operators_change_nothing.py \
	tests/fidelity/test_kinds.py tests/fidelity/test_concurrency.py

sanitize: $(INSTALLED)
	$(SANITIZED) $(BIN)/gradprobe build-core
	$(SANITIZED) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
		LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
		$(BIN)/python -m pytest $(NATIVE_TESTS)

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

# A wheel that brings the observer of operators for the PyTorch of this environment, in dist.
wheels: $(INSTALLED)
	$(BIN)/gradprobe build-core
	GRADPROBE_SHIPPED=$$($(BIN)/python -m gradprobe.capture.ops.native.library_file) \
		$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# The parts of the documentation that come from the code.
generate: $(INSTALLED)
	$(BIN)/python docs/generate.py --picture

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gradprobe needs Python 3.10 or newer; name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'pip>=24'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q gradprobe
	-$(BIN)/gradprobe build-core
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.gradprobe handbook.html models.json models.md models.html
