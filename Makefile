# make demo    train, evaluate and export a small detector on drawn data; results in demo_output/
# make test    run the test suite with coverage
# make lint    ruff and mypy
# make fuzz    20 times the suite's cases of the fuzz targets in tests/fuzz
# make faults  kill training, fill its disk, and see what is lost (docs/reliability.md); about ten minutes
# make docs    write docs/config.md anew
# make site    build the pages of docs/ into site/, with every link checked
# make notebook  run docs/notebooks/demo.py as a notebook into notebook_output/, which the site then shows
# make clean   remove everything that make makes
#
# Each creates .venv when needed. Another Python or TensorFlow, after make clean: make test PYTHON=python3.13 TENSORFLOW=2.21

PYTHON ?= python3
# Empty: the newest that tf-models-official admits.
TENSORFLOW ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check
MIN_COVERAGE := 93
# Most of a test's time is TensorFlow tracing Python on one core; some wait for other processes, so one more than two cores.
PROCESSES ?= 3

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint fuzz faults docs site notebook clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/odfpn demo --output_dir demo_output

# In parts: a process keeps some memory of each file that it ran, and three that ran a third of all files each need more than
# a machine of 24 GB has.
TEST_PARTS := conformance+top interop+jobs+cli+training builder+data+fuzz config+drawing+evaluation+modeling+ops+serving+tools
# "top" are the files of tests/ itself.
files_of = $(patsubst %/top,tests/test_*.py,$(addprefix tests/,$(subst +, ,$(1))))

test: $(VENV)/installed-test
	$(BIN)/coverage erase
	set -e; $(foreach part,$(TEST_PARTS),$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile \
		--no-loadscope-reorder --cov --cov-append --cov-report= $(call files_of,$(part));)
	$(BIN)/coverage report --fail-under=$(MIN_COVERAGE)

lint: $(VENV)/installed-lint
	$(BIN)/ruff check
	$(BIN)/mypy

fuzz: $(VENV)/installed-test
	ODFPN_FUZZ=20 $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --durations=0 tests/fuzz

faults: $(VENV)/installed
	$(BIN)/python benchmarks/faults.py

docs: $(VENV)/installed
	$(BIN)/python docs/generate_config.py

site: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# The pair of it in git has no outputs; a change goes into demo.py, and from there into demo.ipynb.
notebook: $(VENV)/installed-notebook
	$(BIN)/jupytext --quiet --update --to ipynb docs/notebooks/demo.py
	rm -rf notebook_output && mkdir notebook_output
	cp docs/notebooks/demo.ipynb notebook_output
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter execute --inplace --timeout=300 notebook_output/demo.ipynb

clean:
	rm -rf $(VENV) build dist demo_output demo_masks_output notebook_output site *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f object_detection_fpn/protos/*_pb2.py object_detection_fpn/protos/*_pb2.pyi

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What is installed changes with these; a stamp remembers that it was, so that a second `make test` starts at once.
INSTALLED_FROM := pyproject.toml setup.py $(wildcard protos/*.proto)

# pip says that tf-models-official admits TensorFlow 2.20 alone, and installs; CONTRIBUTING, "Versions", has what was tested.
INSTALL_TENSORFLOW = $(if $(TENSORFLOW),$(PIP) 'tensorflow==$(TENSORFLOW).*' 'tf_keras==$(TENSORFLOW).*')

$(VENV)/installed: $(INSTALLED_FROM) | $(BIN)/python
	$(PIP) --editable .
	$(INSTALL_TENSORFLOW)
	touch $@

$(VENV)/installed-%: $(INSTALLED_FROM) | $(BIN)/python
	$(PIP) --editable ".[$*]"
	$(INSTALL_TENSORFLOW)
	touch $@
