#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: build, test on the device, check with compute-sanitizer, then measure.
#
#   benchmarks/gpu.sh [OUTPUT [STEP...]]    results, default benchmarks/results; steps, default all:
#                                           build test memcheck racecheck check measure
#
# `check` runs every benchmark on small problems. Steps can be run one call each where calls are limited in time.
# Uses the packages of the current Python (PYTHON, default python3): torch with CUDA, cmake, ninja, pybind11, setuptools and
# the extras xai and test. Downloads nothing. Needs nvcc and compute-sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results}
steps=("${@:2}")
[ ${#steps[@]} -gt 0 ] || steps=(build test memcheck racecheck check measure)
python=${PYTHON:-python3}
tests=(tests/test_devices.py tests/test_obc_groups.py)

for step in "${steps[@]}"; do
  printf '\n== %s\n' "$step"
  case $step in
    build)
      SPADE_CMAKE_ARGS="-DSPADE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native" \
        "$python" -m pip install -q --no-build-isolation --no-deps -e .
      "$python" -m spade_ext --build-info
      "$python" -c "import spade_ext, sys; sys.exit(not spade_ext.cuda_is_available())"
      ;;
    test) "$python" -m pytest -q "${tests[@]}" ;;
    memcheck | racecheck)
      compute-sanitizer --tool "$step" --error-exitcode 1 \
        "$python" -m pytest -q "${tests[@]}" -k "cuda and not spade"
      ;;
    check) "$python" -m benchmarks gpu --check --output build/gpu-check ;;
    measure) "$python" -m benchmarks gpu --output "$output" ;;
    *)
      echo "no such step: $step" >&2
      exit 1
      ;;
  esac
done
