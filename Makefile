# Both commands set up what they need: a virtual environment in .venv with pinned versions, qp-control installed editable.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/cart_pole_swing_up
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(shell find cpp -name '*.cpp' -o -name '*.hpp' -o -name '*.txt' -o -name '*.cmake' 2>/dev/null)
# The build's own environment is pinned too; recent versions of pip read a variable of its own for that.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt CMAKE_BUILD_PARALLEL_LEVEL=2 $(BIN)/python -m pip

# For this processor alone: without AVX-512 that is a quarter less to compile. Packages become bytecode when they are
# imported, which most of their files never are.
INSTALL := $(PIP) install --no-compile --config-settings=cmake.define.QP_CONTROL_NATIVE=ON

.PHONY: train test sanitize fuzz install lint docs bench clean

install: $(VENV)/.installed

train: install
	$(BIN)/qp-control train cart_pole_swing_up --run $(RUN) --resume

test: install
	$(BIN)/python -m pytest -m 'not slow' --numprocesses logical --maxprocesses 8 --dist worksteal

# The C++ tests under the address and undefined-behaviour sanitizers. allocation_facts is left out, it has a malloc of its
# own. Leaks are not looked for: where ptrace is restricted, as in many containers, that search fails by itself. Another
# build than the generic one: make sanitize SANITIZED=build/sanitize_avx2 VECTOR=-march=x86-64-v3
SANITIZED ?= build/sanitize
VECTOR ?=
SANITIZE := -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize fuzz: export PATH := $(CURDIR)/$(BIN):$(PATH)
sanitize fuzz: export ASAN_OPTIONS ?= detect_leaks=0
sanitize fuzz: export UBSAN_OPTIONS ?= print_stacktrace=1
CONFIGURE_SANITIZED = cmake -G Ninja -S . -B $(SANITIZED) -DQP_CONTROL_TESTS=ON -DQP_CONTROL_PYTHON=OFF \
	  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG='-Og -g1' -DCMAKE_CXX_FLAGS='$(SANITIZE) $(VECTOR)' \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
sanitize: install
	$(CONFIGURE_SANITIZED)
	cmake --build $(SANITIZED) --parallel 2 --target kernel_facts solver_facts interior_point_facts ocp_facts
	$(SANITIZED)/cpp/tests/kernel_facts
	$(SANITIZED)/cpp/tests/solver_facts
	$(SANITIZED)/cpp/tests/interior_point_facts
	$(SANITIZED)/cpp/tests/ocp_facts

# Awkward problems made from numbers, their answers held against what they claim, in the same build: the same cases on
# every machine, and few enough for every run of the tests. Others: make fuzz CASES=5000 SEED=1000
CASES ?= 800
SEED ?= 0
fuzz: install
	$(CONFIGURE_SANITIZED)
	cmake --build $(SANITIZED) --parallel 2 --target fuzz_solver
	$(SANITIZED)/cpp/tests/fuzz_solver cases $(CASES) $(SEED)

# A stamp of its own: a virtual environment that broke off half-way leaves its python behind.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.10 or newer, or call make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(PYTHON) --version) is too old: qp-control needs 3.10 or newer, call make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "$(PYTHON) has no headers: install them (Debian, Ubuntu: apt-get install python3-dev)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "a C++17 compiler is missing (Debian, Ubuntu: apt-get install g++)"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(PIP) install --quiet pip
	touch $@

$(VENV)/.installed: $(VENV)/.created $(SOURCES)
	$(INSTALL) --editable '.[test]'
	touch $@

lint: install
	$(INSTALL) --quiet --editable '.[lint]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/mypy envs && $(BIN)/mypy benchmarks
	git ls-files '*.cpp' '*.hpp' | xargs $(BIN)/clang-format --dry-run --Werror

# The pages and the reference; a warning is an error. Their packages alone are installed: an editable install would compile
# again. Python 3.11 or newer.
docs: install
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" \
	  | $(PIP) install --quiet -r /dev/stdin
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

# BENCH: options of benchmarks/run_all.py. qpth and mpc ask for an old numpy, and run with a new one.
BENCH ?=
bench: install
	$(INSTALL) --quiet --editable '.[bench]'
	$(PIP) install --quiet --no-deps qpth mpc
	$(BIN)/python benchmarks/run_all.py $(BENCH)

clean:
	rm -rf $(VENV) build
