# Everything runs in .venv; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q cmake ninja pybind11 scipy-openblas32 pytest
	touch $@

build/libspade.so: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build -G Ninja -DSPADE_BLAS_DIR=$$($(BIN)/python -c "import os, scipy_openblas32 as s; print(os.path.dirname(s.__file__))")
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build

test: build/libspade.so
	SPADE_LIBRARY=build/libspade.so $(BIN)/python -m pytest -q
