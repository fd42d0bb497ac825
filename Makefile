# make demo and make test set up what they need; the other targets do too.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: setup demo test check format audit fuzz chaos bench clean

setup: $(STAMP)

# The lock names every package, so nothing is resolved (--no-deps): resolving would bring CUDA builds of packages that
# vLLM names and confscore never imports. Torch's CPU build comes from the configured registry where it has one.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps $(TORCH) 2>/dev/null || $(PIP) install --no-deps --index-url $(CPU_INDEX) $(TORCH)
	$(PIP) install --no-deps --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/confscore demo --out demo-run

# Two processes; tests of clusters come one after the other in the same one, and so do those of engines.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Known vulnerabilities of what is locked. Without a way to the vulnerability service it says so, and fails nobody.
audit: setup
	$(BIN)/python .ci/audit.py requirements.lock

# Random files, configurations, guards and grammars for so long a target; what is found stays in tests/fuzz/corpus.
FUZZ_SECONDS ?= 900
fuzz: setup
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -m fuzz -o addopts="-ra" -o timeout=0 tests/fuzz

# Faults at length: 50 random kills of every kind on one node, more on two and four and of vLLM's own process, and the
# tests that take minutes.
chaos: setup
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/ray/chaos.py --kills 50
	$(BIN)/python tests/ray/chaos.py --kills 10 --nodes 2
	$(BIN)/python tests/ray/chaos.py --kills 10 --nodes 4
	$(BIN)/python tests/ray/chaos.py --kills 5 --engine vllm --documents 3000

bench: setup
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/scoring.py --world production
	$(BIN)/python benchmarks/scoring.py --world production --long-prompts --documents 1500 --rounds 2
	$(BIN)/python benchmarks/scoring.py --world flagged
	$(BIN)/python benchmarks/alternatives.py
	$(BIN)/python benchmarks/ray_data_llm.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/thresholds.py

clean:
	rm -rf demo-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
