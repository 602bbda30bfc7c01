# Both commands set up what they need: a virtual environment in .venv with pinned versions, qp-control installed editable.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/cart_pole_swing_up
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(shell find cpp -name '*.cpp' -o -name '*.hpp' -o -name '*.txt' -o -name '*.cmake' 2>/dev/null)

.PHONY: train test install lint clean

install: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	CMAKE_BUILD_PARALLEL_LEVEL=2 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --editable '.[test]'
	touch $@

train: install
	$(BIN)/qp-control train cart_pole_swing_up --run $(RUN)

test: install
	$(BIN)/python -m pytest -m 'not slow'

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.cpp' '*.hpp' | xargs $(BIN)/clang-format --dry-run --Werror

clean:
	rm -rf $(VENV) build
