# make demo | test | test-slurm | check | setup: each sets up what it needs in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu or faiss-gpu, never both (they install the same module): make setup FAISS=gpu
FAISS ?= cpu
STAMP := $(VENV)/.installed-$(FAISS)

.PHONY: setup demo test test-slurm browser check lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"luss needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	if ls $(VENV)/.installed-* >/dev/null 2>&1; then $(BIN)/python -m pip uninstall --quiet --yes faiss-cpu faiss-gpu; rm $(VENV)/.installed-*; fi
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(FAISS),tensorboard,dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/luss demo

# Tests of the report page are skipped where there is no Chromium: make browser installs it (Debian, root).
# A file stays with one worker: what its tests share is made once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slurm"

browser:
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

# On a real SLURM; installs and starts one with two simulated nodes where there is none (Debian, root).
test-slurm: setup
	bash tests/slurm/start-slurm.sh
	$(BIN)/python -m pytest -m slurm tests/slurm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict luss stages

check: lint test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
