# Every verb sets up what it needs: a fresh clone, Python >= 3.11, git and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCENARIO ?= oom

.PHONY: demo test torch check soak bench clean

demo: $(VENV)/.demo $(if $(filter hang,$(SCENARIO)),$(VENV)/.torch) ## one real fault, from probe to verdict
	@$(BIN)/misstep demo $(SCENARIO)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -m "not soak"

torch: $(VENV)/.torch ## PyTorch, for the tests that start real ranks; without it they are skipped

check: $(VENV)/.dev ## format, lint, types, layer contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

soak: $(VENV)/.dev ## long durability runs
	@$(BIN)/python -m pytest -q -m soak --timeout 3600

bench: $(VENV)/.dev ## measures, beside peers where they are found, and writes docs/benchmarks.md
	@$(BIN)/python -m bench.report

$(BIN)/python:
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Misstep needs Python >= 3.11; say which with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing Misstep and Ray into $(VENV) (about a minute)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo Makefile
	@echo "Installing the test tools into $(VENV)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[scale]' 'hatchling>=1.27' 'hypothesis>=6.100' 'import-linter>=2.3' 'moto[s3,server]>=5.2,<6' 'mypy>=2.4,<3' 'nvidia-ml-py>=13,<14' 'opentelemetry-exporter-otlp-proto-grpc>=1.40' 'opentelemetry-exporter-otlp-proto-http>=1.40' 'pytest>=9,<10' 'pytest-timeout>=2.4' 'ruff>=0.17,<0.18' 'schemathesis>=4.32,<5'
	@touch $@

$(VENV)/.torch: pyproject.toml | $(VENV)/.demo
	@echo "Installing PyTorch into $(VENV)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[torch]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
