# make demo | test | test-slurm | check | setup: each sets up what it needs in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu or faiss-gpu, never both (they install the same module): make setup FAISS=gpu
FAISS ?= cpu
STAMP := $(VENV)/.installed-$(FAISS)
# Where builds of torch and torchvision without CUDA are looked for; those of PyPI bring its libraries along on x86-64.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: setup demo test test-slurm browser check lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"luss needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	if ls $(VENV)/.installed-* >/dev/null 2>&1; then $(BIN)/python -m pip uninstall --quiet --yes faiss-cpu faiss-gpu; rm $(VENV)/.installed-*; fi
	@$(MAKE) --no-print-directory torch-$(FAISS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(FAISS),tensorboard,dev]'
	$(BIN)/python -m luss.compat
	touch $(STAMP)
	@echo "$(VENV) takes $$(du -sh $(VENV) | cut -f1), with torch $$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))')"

# By themselves, without what they need: that comes from the usual index, as constraints.txt has it.
.PHONY: torch-cpu torch-gpu
torch-cpu:
	@echo "torch and torchvision without CUDA from $(CPU_INDEX), 0.2 GB"
	@$(BIN)/python -m pip install --quiet --no-deps --timeout 10 --retries 0 --index-url $(CPU_INDEX) \
		$$(sed -nE 's/^(torch|torchvision)==([0-9.]+)$$/\1==\2+cpu/p' constraints.txt) 2>/dev/null \
		|| echo "that index does not answer, or lacks them: they come from the usual one, on x86-64 with CUDA's libraries, some 5 GB"

torch-gpu:
	@$(BIN)/python -m pip freeze 2>/dev/null | grep -q '^torch.*+cpu$$' && $(BIN)/python -m pip uninstall --quiet --yes torch torchvision || true

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
