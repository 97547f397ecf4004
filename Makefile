# `make predict` and `make test` work on a fresh machine with Python 3.10 or newer, a C++17 compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP_FILES := $(wildcard csrc/*/*.cpp csrc/*/*.hpp)
FORMATTED := $(CPP_FILES) $(wildcard kernels/*.cu tests/support/helpers/*.[ch]pp)
# Python compiles a module when it is first imported, and keeps that, whatever the environment says: most of those that
# are installed never are, and those that are, by each of the processes that tests start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
BUILD_INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(CPP_FILES)
# Tests run in parallel, one thread each; memory that a model took stays for the next: giving it back and taking it
# again, page by page, was a good part of their time.
PYTEST := OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=2000000000 MALLOC_MMAP_THRESHOLD_=1000000000 $(BIN)/python -m pytest

.PHONY: setup predict test quick lint unit sanitize fuzz bench gpu gpu-tests gpu-measurements gpu-profile has-gpu \
	coverage figures matrix docs format clean

setup: $(VENV)/.ready

$(VENV)/.ready: $(BUILD_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit("ghnfast needs Python 3.10 or newer; set PYTHON=..." if sys.version_info < (3, 10) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# A new pip first: those that Pythons bring take a minute to resolve what follows.
	$(INSTALL) --upgrade pip scikit-build-core pybind11 cmake ninja
	@# What is pinned is brought while the extension is compiled, which waits for it; then what has no pin for this Python.
	nice $(INSTALL) --no-build-isolation --no-deps --editable . & compiling=$$!; \
		$(INSTALL) --requirement constraints.txt; brought=$$?; wait $$compiling && exit $$brought
	$(INSTALL) --no-build-isolation --editable ".[dev,docs]"
	touch $@

predict: setup
	$(BIN)/ghnfast predict resnet50 --out resnet50.safetensors

# Both at once: what looks at the sources uses one core, and so does the end of the tests.
test: setup
	$(MAKE) --jobs 2 lint unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)
	$(BIN)/mypy

unit: setup
	$(PYTEST) -n 2

# What says most in a minute.
QUICK := tests/test_architecture.py tests/test_door.py tests/csrc/test_decode.py tests/csrc/test_ghn.py tests/graph \
	tests/nn/test_native.py tests/ops/test_tiling.py tests/prediction/test_formulas.py tests/prediction/test_lists.py \
	tests/prediction/test_reports.py tests/prediction/test_failures.py tests/tracing/test_functions.py \
	tests/ops/test_sweep.py tests/cli/test_predict.py tests/test_calibrate.py

quick: setup
	$(PYTEST) -n 2 -q $(QUICK)

# The C++ core under the address and undefined-behaviour sanitizers, then under the thread sanitizer.
sanitize: sanitize-address,undefined sanitize-thread

PRELOAD = $(foreach library,$(LIBRARIES),$(shell gcc -print-file-name=$(library)))
sanitize-address,undefined: LIBRARIES = libasan.so libstdc++.so
sanitize-thread: LIBRARIES = libtsan.so libstdc++.so
sanitize-%: build/sanitize-%/.built
	LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 \
		GHNFAST_TEST_EXTENSION=build/$@ $(PYTEST) -p no:cacheprovider --confcutdir=tests/csrc tests/csrc

# There is no such file: ninja knows what is to be done.
build/sanitize-%/.built: setup
	$(BIN)/cmake -S . -B $(@D) -G Ninja -DGHNFAST_SANITIZE=$* -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build $(@D)

# Hostile arrays, under the sanitizers, and damaged files, for FUZZ_SECONDS, from another seed each time.
FUZZ_SECONDS ?= 300
fuzz: LIBRARIES = libasan.so libstdc++.so
fuzz: build/sanitize-address,undefined/.built
	GHNFAST_FUZZ_SECONDS=$(FUZZ_SECONDS) GHNFAST_FUZZ_PRELOAD="$(PRELOAD)" GHNFAST_TEST_EXTENSION=$(CURDIR)/$(<D) \
		$(PYTEST) -p no:cacheprovider -n 2 tests/fuzz

# Measures on the CPU into bench/results/cpu-*.json, and regenerates the README's tables and docs/speed.svg. The published
# implementations are measured beside ours where PYTHONPATH has them (ppuda, ghn3 and what they need).
bench: setup
	for part in models scaling busy candidates deepnets search precision training ghn3; do \
		$(BIN)/python -m pytest bench/test_$$part.py --benchmark-json=bench/results/cpu-$$part.json || exit 1; \
	done
	for part in ppuda:reference ghn3:reference_ghn3; do \
		if $(BIN)/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$${part%:*}') is None)"; then \
			$(BIN)/python -m pytest bench/test_$${part#*:}.py --benchmark-json=bench/results/cpu-$${part#*:}.json || exit 1; \
		else \
			echo "$${part%:*} is not on PYTHONPATH: the figures beside it stay as they are"; \
		fi; \
	done
	$(BIN)/python bench/report.py

# On a machine with a GPU, where ghnfast is installed in $(PYTHON): the kernels' tests on the device; then, whatever came of
# them, measurements into bench/results/gpu-*.json and the tables, beside the published implementation where PYTHONPATH
# has it; then what takes how long, into build/profile. Each by itself fits ten minutes.
gpu gpu-tests gpu-measurements gpu-profile: export PYTHONSAFEPATH := 1
gpu:
	status=0; for part in tests measurements profile; do $(MAKE) gpu-$$part || status=$$?; done; exit $$status

# What has to be compiled for any GPU, and what takes place on one that is none, is tested without one.
gpu-tests: has-gpu
	$(PYTHON) -m pytest -n 8 tests/kernels tests/gpu \
		$(foreach part,compile launches chain chain_backward,--ignore tests/kernels/test_$(part).py)

gpu-measurements: has-gpu
	name=$$($(PYTHON) -c 'import torch; print("-".join(torch.cuda.get_device_name().lower().split()))') && \
		$(PYTHON) -m pytest bench/test_gpu.py --benchmark-json=bench/results/gpu-$$name.json
	$(PYTHON) bench/report.py --without-plot

gpu-profile: has-gpu
	$(PYTHON) bench/profiles.py build/profile

has-gpu:
	@$(PYTHON) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make gpu needs a GPU that torch can use")'

# Regenerates docs/coverage.md.
coverage: setup
	$(BIN)/python docs/model_coverage.py

# Regenerates the drawings in docs/figures.
figures: setup
	$(BIN)/python docs/site_hooks.py

# The package with every torch that this machine can get, into docs/compatibility.md. MATRIX has options of .ci/matrix.py.
matrix:
	$(PYTHON) .ci/matrix.py $(MATRIX)

# The site, into build/site: strictly, every link looked at, without the network.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

clean:
	rm -rf build dist $(VENV)
