# `make` prints the verbs. They install into .venv/, node_modules/ and .cache/ of this folder only.
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The number of test processes. Unit tests compute, each process on one core. Many of the other tests wait for servers,
# workers and Ray, so two cores are busy with three processes; with four, slow tests sometimes reach their limits.
UNIT_PROCESSES ?= 2
TEST_PROCESSES ?= 3
# Python keeps compiled modules, and pytest keeps the tests that it rewrote, also where the environment forbids that: every
# process would compile them anew. A variable without a value counts as not set.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo serve check lint types unit fmt docs test test-python test-timing test-node test-n8n n8n-programs system-packages docker-check hooks

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: install ## render demo.mp4 from the shipped sample; no GPU needed
	$(BIN)/lipsync demo

serve: install ## start the server on port 5000
	$(BIN)/lipsync serve

# Types take one core, so they are checked beside the unit tests.
check: $(VENV)/.test ## the fast loop: style, types and unit tests, under two minutes
	$(MAKE) --no-print-directory -j 2 --output-sync=target lint types unit

fmt: $(VENV)/.test ## format the code and mend what the linter can mend
	$(BIN)/ruff check --quiet --fix-only server tests docs docker .ci
	$(BIN)/ruff format server tests docs docker .ci

# Types are checked, and n8n is installed, beside the tests that do not watch the clock. mypy prints its result as one
# piece; the installation mostly waits for the network. A real n8n beside the Python tests would make both too slow.
test: lint system-packages ## everything, as CI runs it
	$(MAKE) --no-print-directory -j 3 n8n-programs types test-python
	$(MAKE) --no-print-directory test-timing
	$(MAKE) --no-print-directory test-n8n

lint: $(VENV)/.test ## ruff: style and likely mistakes
	$(BIN)/ruff check server tests docs docker .ci
	$(BIN)/ruff format --check server tests docs docker .ci

types: $(VENV)/.test ## mypy --strict, for the server and for the tests
	$(BIN)/mypy

unit: $(VENV)/.test ## the unit tests alone
	$(PYTEST) -q -n $(UNIT_PROCESSES) -p no:schemathesis -m "not timing" tests/unit

# Some tests take minutes on a CPU, such as SadTalker's whole generator. A test run by hand skips them.
test-python: $(VENV)/.test system-packages ## every Python test that does not watch the clock
	$(PYTEST) -n $(TEST_PROCESSES) -m "not timing" --durations=20

# These tests check limits of seconds and milliseconds, so no other test runs beside them. No test is run twice. Only
# their files are read: reading every test takes 20 s.
test-timing: $(VENV)/.test ## the tests that watch the clock, one after the other
	$(PYTEST) -m timing --durations=20 $$(grep -rl --include='test_*.py' 'pytest\.mark\.timing' tests)

test-node: $(VENV)/.plain node_modules/.test ## the n8n node without n8n: its lint and its unit tests
	npm run build
	npm run lint
	npm test

test-n8n: test-node n8n-programs ## the n8n node: its lint, its tests, then a real n8n
	npm run test:n8n:built

n8n-programs: system-packages ## install both versions of n8n that the tests run; a second run does nothing
	nice -n 19 bash n8n-node/test/n8n/programs.sh

# n8n is compiled with g++, and comes by npm: both are here before the installation of n8n begins.
system-packages:
	tests/system-packages.sh

docs: $(VENV)/.test ## write the tables in README.md and docs/ anew from the code
	$(BIN)/python -m lipsync_server.settings_table README.md
	$(BIN)/python -m lipsync_server.options_table docs/options.md
	$(BIN)/python -m lipsync_server.bench.tables docs/performance.md
	$(BIN)/python -m lipsync_server.bench.tables docs/performance-h200.md

IMAGES ?= cpu
docker-check: ## build and try the CPU image without Docker, or IMAGES="cpu gpu" (root, debootstrap, buildah; minutes)
	$(PYTHON) tests/docker/build_images.py $(IMAGES)

hooks: $(VENV)/.test ## run the checks of .pre-commit-config.yaml before every commit of yours
	$(BIN)/pre-commit install

install: $(VENV)/.plain ## make .venv with the plain install
$(VENV)/.plain: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not make a virtual environment; on Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PIP) -e .
	touch $@

# The torch version of the tests; the image's is in constraints.txt. pip installs a build without CUDA if the index has one.
TEST_TORCH ?= 2.13.0

# constraints.txt pins the image's torch and its CUDA libraries. Another torch needs other libraries.
$(VENV)/.test: $(VENV)/.plain
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TEST_TORCH)
	$(BIN)/python tests/support/constraints_for_tests.py > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[models,s3,ray,speech,test]'
	touch $@

# n8n 2.x and 1.x are installed once into .cache/n8n and .cache/n8n-1 (five minutes and 2 GB each); LIPSYNC_N8N_DIR and
# LIPSYNC_N8N_1_DIR name folders that have an n8n already.
node_modules/.test: package-lock.json package.json n8n-node/package.json
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@
