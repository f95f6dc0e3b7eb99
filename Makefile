# make demo   render demo.mp4 from the shipped sample
# make serve  start the server on port 5000
# make docker-check  build and try the image's CPU target without Docker (root, debootstrap; minutes)
# make test   install what the tests need and run all of them
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: docker-check demo serve test test-n8n lint install

install: $(VENV)/.plain
$(VENV)/.plain: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not make a virtual environment; on Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.plain
	$(PIP) torch==2.13.0
	$(PIP) -e '.[models,s3,ray,test]'
	touch $@

demo: install
	$(BIN)/lipsync demo

serve: install
	$(BIN)/lipsync serve

lint: $(VENV)/.test
	$(BIN)/ruff check server tests
	$(BIN)/ruff format --check server tests
	$(BIN)/mypy

docker-check:
	$(PYTHON) tests/docker/run_cpu_target.py

test: $(VENV)/.test lint
	tests/system-packages.sh
	# Tests that really kill processes and watch the clock may trip on a busy machine: what failed is run once more, alone.
	$(BIN)/python -m pytest || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none
	$(MAKE) test-n8n

# The n8n node: its lint and unit tests, then inside a real n8n, which is installed once into .cache/n8n (five minutes,
# 2 GB; LIPSYNC_N8N_DIR names one that is there already).
node_modules/.test: package-lock.json package.json n8n-node/package.json
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

test-n8n: $(VENV)/.plain node_modules/.test
	npm run build
	npm run lint
	npm test
	npm run test:n8n
