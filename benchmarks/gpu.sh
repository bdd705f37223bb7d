#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: build, test on the device, check with compute-sanitizer, then measure.
#
#   benchmarks/gpu.sh [OUTPUT]      results, default benchmarks/results
#
# Uses the packages of the current Python (PYTHON, default python3): torch with CUDA, cmake, ninja, pybind11, setuptools and
# the extras xai and test. Downloads nothing. Needs nvcc and compute-sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results}
python=${PYTHON:-python3}

step() { printf '\n== %s\n' "$*"; }

step "build"
SPADE_CMAKE_ARGS="-DSPADE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native" \
  "$python" -m pip install -q --no-build-isolation --no-deps -e .
"$python" -m spade_ext --build-info
"$python" -c "import spade_ext, sys; sys.exit(not spade_ext.cuda_is_available())"

step "tests on the device"
"$python" -m pytest -q tests/test_devices.py

for tool in memcheck racecheck; do
  step "compute-sanitizer $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 \
    "$python" -m pytest -q tests/test_devices.py -k "cuda and not spade"
done

step "benchmarks"
"$python" -m benchmarks gpu --output "$output"
