# Every target makes and keeps its own environment in .venv. It needs Python 3.10+ and a package registry.
# Paths are relative, so the checkout may lie in a folder with spaces.

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/.installed

.PHONY: demo test test-slow test-comfy test-browser coverage lint bench
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	.venv/bin/psa demo

# Two workers, which get whole files, or all tests of one ComfyUI. One thread a worker, or they fight over the cores.
test: lint
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadscope tests/comfy tests/core

test-slow: $(INSTALLED)
	$(VENV_PYTHON) -m pytest -m slow

test-comfy: $(INSTALLED)
	$(VENV_PYTHON) -m pytest -m "slow or not slow" tests/comfy

test-browser: $(INSTALLED)
	$(VENV_PYTHON) -m pip install -q -c constraints.txt -e '.[browser]'
	$(VENV_PYTHON) -m pytest tests/browser

# Of the core, in the tests' own processes: what commands and servers run beside them is not counted.
coverage: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadscope --cov=psa_core --cov-report=term-missing:skip-covered tests/core

lint: $(INSTALLED)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	@if command -v npx > /dev/null; then npx --yes eslint@9 web; else echo "web/ is not linted: there is no npx"; fi

# Those that need no data of yours: deciding_timesteps.py and pairs_needed.py ask for a data set.
BENCHES := apply_cost dataset_scale reference_reuse training_presets training_step
bench: $(INSTALLED)
	set -e; for name in $(BENCHES); do $(VENV_PYTHON) "bench/$$name.py"; done

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or later is needed; name one with: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	test -x $(VENV_PYTHON) || $(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install -c constraints.txt -e '.[dev]'
	mkdir -p .venv/pack && ln -sfn ../.. .venv/pack/psa_pack
	touch $(INSTALLED)
