#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: build, test on the device, measure, then check with compute-sanitizer.
#
#   benchmarks/gpu.sh [OUTPUT [STEP...]]    results, default benchmarks/results; steps, default all:
#                                           build test check, the benchmarks goals hessian pruning traces
#                                           scaling long-traces, then memcheck racecheck synccheck
#
# `check` runs every benchmark on small problems. Each step of the benchmarks writes results of its own, gpu-STEP.json and
# .html, and ends within a few minutes: where calls are limited in time run steps one call each. After a failed build
# nothing else runs; any other step that fails leaves the rest to run, and exit status 1.
# Uses the packages of the current Python (PYTHON, default python3), listed in CONTRIBUTING.md; `build` says which are
# missing. Downloads nothing. Needs nvcc and compute-sanitizer, on PATH or in /usr/local/cuda/bin. With LIMIT set, a step
# but `build` is interrupted after so many seconds: benchmarks then write what they have measured.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
output=${1:-benchmarks/results}
steps=("${@:2}")
[ ${#steps[@]} -gt 0 ] || steps=(
  build test check goals hessian pruning traces scaling long-traces memcheck racecheck synccheck
)
python=${PYTHON:-python3}
export SPADE_REQUIRE_CUDA=1 # a test run without a GPU fails
export PYTHONUNBUFFERED=1   # what is interrupted has told what it did
PATH=$PATH:/usr/local/cuda/bin
limited=()
[ -z "${LIMIT:-}" ] || limited=(timeout --signal=INT --kill-after=30 "$LIMIT")
packages=(
  torch torchvision setuptools wheel pybind11 scipy_openblas32 numpy safetensors tqdm captum jinja2
  kornia matplotlib PIL sklearn pytest pytest_benchmark hypothesis
)
tests=(tests/cuda/test_devices.py tests/cuda/test_devices_large.py tests/ext/test_obc_groups.py)
traces=( # too slow under compute-sanitizer
  tests/cuda/test_cuda_traces.py tests/cuda/test_cuda_models.py tests/cuda/test_cuda_saliency.py
)

build() {
  local find="import sys; from importlib.util import find_spec; print(*(x for x in sys.argv[1:] if not find_spec(x)))"
  echo "missing packages, without which steps may fail: $("$python" -c "$find" "${packages[@]}")"
  SPADE_CMAKE_ARGS="-DSPADE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native" \
    "$python" -m pip install -q --no-build-isolation --no-deps -e . &&
    "$python" -m spade_ext --build-info &&
    "$python" -c "import spade_ext, sys; sys.exit(not spade_ext.cuda_is_available())"
}

sanitize() { # TOOL [OPTION...], of this project's kernels
  "${limited[@]}" compute-sanitizer --tool "$@" --kernel-name kns=spade --error-exitcode 1 \
    "$python" -m pytest -q "${tests[@]}" -k "cuda and not spade"
}

run() { # STEP
  case $1 in
    build) build ;;
    # a file that cannot be imported does not keep the others from running
    test)
      "${limited[@]}" "$python" -m pytest -q -o faulthandler_timeout=120 \
        --continue-on-collection-errors "${tests[@]}" "${traces[@]}"
      ;;
    check) "${limited[@]}" "$python" -m benchmarks gpu --check --output build/gpu-check ;;
    goals | hessian | pruning | traces | scaling | long-traces)
      "${limited[@]}" "$python" -m benchmarks gpu --part "$1" --output "$output"
      ;;
    # torch's cache would lay tensors side by side in one allocation, where no overrun shows
    memcheck) PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitize memcheck --report-api-errors no ;;
    racecheck | synccheck) sanitize "$1" ;;
    *) echo "no such step: $1" >&2 && false ;;
  esac
}

failed=()
for step in "${steps[@]}"; do
  printf '\n== %s\n' "$step"
  run "$step" && continue
  failed+=("$step")
  [ "$step" != build ] || break
done
[ ${#failed[@]} -eq 0 ] || {
  printf '\n== failed: %s\n' "${failed[*]}" >&2
  exit 1
}
