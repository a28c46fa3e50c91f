# Everything sets itself up: it needs Python >= 3.11, make and git, and makes .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
WORKERS ?= 2

.PHONY: help demo test test-full check crash format bench bench-peers clean

help:
	@echo "make demo       index a real corpus and search it in two stages (light: no torch)"
	@echo "make test       the test suite on every backend"
	@echo "make test-full  the slow tests too"
	@echo "make check      ruff, mypy --strict, import-linter"
	@echo "make crash      writers killed at random moments, 200 times on the embedded store, 20 on others; power losses"
	@echo "make bench      recall, nDCG and speed on real data"
	@echo "make bench-peers  against other libraries, in an environment of their own (PEERS_ARGS='--sets W --only mrl,faiss-hnsw')"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("mrl-retrieval needs Python 3.11 or newer, %s is %s; set PYTHON=" % (sys.executable, sys.version.split()[0])) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[faiss,wordllama]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[all]' --group dev
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/mrl demo

# One thread for each product of matrices: the workers have the cores, and threads that wait for one only spin.
test: $(VENV)/.dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadscope

test-full: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crash: $(VENV)/.dev
	$(BIN)/python -m tests.crash --rounds 200
	$(BIN)/python -m tests.power_loss
	for backend in chroma chroma-server qdrant qdrant-edge pgvector milvus lancedb; do \
		$(BIN)/python -m tests.crash --rounds 20 --backend $$backend || exit 1; done

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# The peers' environment; data sets are made by the project's own, which has the encoders.
PEERS := .cache/peers-venv
PEERS_ARGS ?=

$(PEERS)/.done: benchmarks/peers/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --quiet --disable-pip-version-check install -r benchmarks/peers/requirements.txt -e .
	@touch $@

bench-peers: $(VENV)/.dev $(PEERS)/.done
	$(BIN)/python -m benchmarks.peers --make M,W,minilm
	$(PEERS)/bin/python -m benchmarks.peers $(PEERS_ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache build dist
