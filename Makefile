# Two commands do everything on a fresh machine with Python >= 3.11: `make book` and `make test`.
# `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000

# Which build of torch: empty for that of PyPI (with CUDA on Linux, some gigabytes), or a backend of PyTorch such as cpu.
TORCH  ?=

BIN   := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/.ready-$(shell cat requirements.txt requirements.lock pyproject.toml 2>/dev/null | cksum | tr ' ' '-')
HTML  := _out/_build/html
LINT  := tslab tests data_scripts benchmarks book/_ext book/tslab_book book/vendor_assets.py book/make_notebooks.py

# -n reports every reference that leads nowhere, -W makes a warning an error, --keep-going shows all of them.
BOOK_FLAGS ?= -n -W --keep-going

# Tests run on all processors, those of one file on one of them, because they share what is slow to make.
SIDE_BY_SIDE ?= -n auto --dist loadfile
test: export OMP_NUM_THREADS = 1
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help book serve test test-slow test-browser test-shapes test-versions lint lock notebooks reproduce assets clean distclean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: assets ## build the book into _out/_build/html
	@$(BIN)/jupyter-book build book --config _config.yml --path-output _out $(BOOK_FLAGS)
	@echo
	@echo "The book is built:  $(abspath $(HTML))/index.html"
	@echo "To read it:         make serve    then open http://localhost:$(PORT)/"

serve: ## serve the built book at http://localhost:8000/
	@test -f $(HTML)/index.html || { echo "Nothing to serve yet. Run: make book"; exit 1; }
	@echo "Open http://localhost:$(PORT)/   (stop with Ctrl-C)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(HTML)

test: $(READY) ## run the tests; what needs released data, a browser or a GPU says so and is skipped
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_FLAGS)

test-slow: $(READY) ## run the tests that take longer than ten seconds each
	$(BIN)/python -m pytest -m slow --ignore=tests/browser $(PYTEST_FLAGS)

test-browser: $(READY) ## open every page of the built book in Chromium, with the network blocked
	$(BIN)/python -m pytest tests/browser -n auto $(PYTEST_FLAGS)

# Left out are those that start other programs or run whole chapters, which the hook does not reach, and those that
# compile or export: a look at a shape while a graph is traced fixes that shape.
SHAPES = $(filter-out $(patsubst %,tests/test_%.py,book cells encoders_graphs exporting notebooks recipes release spelling versions), \
  $(filter-out %_chapters.py,$(wildcard tests/test_*.py)))
test-shapes: export OMP_NUM_THREADS = 1
test-shapes: export PYTHONPATH = tests/shapes
test-shapes: $(READY) ## the tests of the package, with the types and shapes of every call checked
	$(BIN)/python -m pytest $(SHAPES) --jaxtyping-packages=tslab,type_checker.check -k "not onnx_graph" $(SIDE_BY_SIDE) $(PYTEST_FLAGS)

test-versions: $(READY) ## the tests with the lowest and the newest versions, and all notebooks with those of Colab
	PYTHON=$(PYTHON) tests/versions/run $(VERSIONS)

lint: $(READY) ## ruff, mypy, and the files that other services read against their schemas
	$(BIN)/ruff check $(wildcard $(LINT))
	$(BIN)/ruff format --check $(wildcard $(LINT))
	$(BIN)/mypy
	$(BIN)/mypy book/_ext book/vendor_assets.py book/make_notebooks.py
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*.yml)
	$(BIN)/check-jsonschema --builtin-schema vendor.readthedocs .readthedocs.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

reproduce: $(READY) ## recompute all 652 published numbers from the released files, as far as they are not done yet
	$(BIN)/python -m tslab.benchmark run --table all --source released
	$(BIN)/python -m tslab.benchmark record
	$(BIN)/python -m tslab_book.oddities

notebooks: $(READY) ## regenerate book/notebooks/ (what Colab opens) from the chapters
	$(BIN)/python book/make_notebooks.py

# The lock holds every package with its hashes, for all systems, but for torch and what only torch asks for: another
# build of torch has other hashes and needs other packages. torch itself names those by exact versions.
UNLOCKED = ^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==
lock: $(READY) ## write requirements.lock after a change of requirements.txt; LOCK_FLAGS=--upgrade renews all the others
	$(BIN)/uv pip compile requirements.txt --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" $(LOCK_FLAGS) --output-file requirements.lock
	@awk 'BEGIN { kept = 1 } /^[a-z0-9]/ { kept = !/$(UNLOCKED)/ } kept' requirements.lock > requirements.lock.new
	@mv requirements.lock.new requirements.lock

assets: $(READY)
	@$(BIN)/python book/vendor_assets.py

clean: ## remove what was built; keep the virtual environment
	rm -rf _out book/_vendor build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

distclean: clean ## remove the virtual environment and the front-end packages too
	rm -rf $(VENV) book/frontend/node_modules

# The stamp's name holds a checksum of what is installed from: a change installs again. So does a virtual environment
# whose pip does not start, because making it was interrupted, its Python is gone or its folder has moved.
ifeq ($(shell $(BIN)/pip --version 2>/dev/null),)
.PHONY: $(READY)
endif
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tslab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one:  make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/pip --version >/dev/null 2>&1 || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv --clear $(VENV); }
	$(PIP) --require-hashes -r requirements.lock
	$(if $(TORCH),$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH),$(PIP)) $$(grep '^torch==' requirements.txt)
	$(PIP) --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.ready-*
	@touch $@
