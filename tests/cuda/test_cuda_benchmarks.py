"""The benchmarks of CUDA kernels, on small problems over emulated ones: what they check and write, not how long.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spade_ext

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.report import device_kernels, reached, write_report
from benchmarks.result_file import read_results

ROOT = Path(__file__).parents[2]
CHOSEN = (
    "hessian_error or (inputs and layer4.1.conv2) or conv-64x576 or (test_layers and mobilenet)"
)
FILES = ["bench_cuda_goals.py", "bench_cuda_hessian.py", "bench_sparsegpt.py"]


@pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)
def test_cuda_benchmarks_run_on_the_fake_device(tmp_path):
    results = tmp_path / "results.json"
    options = ["--check", "--suite=full", "--device=cuda", "-p", "fake_benchmarks", "-k", CHOSEN]
    paths = [ROOT, ROOT / "python", ROOT / "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment.pop("PYTEST_XDIST_WORKER", None)  # which keeps pytest-benchmark from measuring
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--override-ini=addopts=",
            f"--rootdir={ROOT}", f"--benchmark-json={results}", *options,
            *(str(ROOT / "benchmarks" / file) for file in FILES),
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    data = {"check": True, "failed": False, **read_results(results)}
    assert data["machine"]["device"] == "fake"
    (goal,) = reached(data)
    assert goal["value"] < goal["of"].most and goal["met"] is None
    rows = device_kernels(data)
    assert len(rows) == 6 and all(row["device_limits"]["fp16_gflops"] > 0 for row in rows)
    write_report(tmp_path / "report.html", data)
    assert "CUDA kernels" in (tmp_path / "report.html").read_text()
