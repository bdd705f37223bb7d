"""Remove each barrier of a kernel in turn: ThreadSanitizer must report every copy that lacks one.

`python tests/cuda/mutations.py [TEST [FILE...]] --libspade FOLDER` builds tests/cuda/TEST.cpp against copies of
csrc/cuda/FILE without one __syncthreads() or __syncwarp() each, and prints which copies pass; a barrier that can
go unnoticed is not needed, or not tested. Exit status 1 if there is one, or if an intact kernel fails. FOLDER has a
libspade built with -DSPADE_SANITIZE=thread. All tests take more than an hour: no part of CI.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
SOURCES = {
    "test_cuda_obc_nm": ["obc_trace.cu"],
    "test_cuda_obc_pattern": ["obc_pattern.cu"],
    "test_cuda_obc_weights": ["obc_weights.cu"],
    "test_cuda_hessian": ["hessian.cu"],
    "test_cuda_cholesky": ["cholesky.cu"],
    "test_cuda_sparsegpt": ["sparsegpt.cu", "cholesky.cu"],
}
FILES = {
    "test_cuda_obc_nm": [
        "obc_candidates.cuh", "obc_round.cuh", "obc_move.cuh", "obc_single.cuh", "obc_update.cuh",
        "obc_update_half.cuh",
    ],
    "test_cuda_obc_pattern": ["obc_pattern.cuh"],
    "test_cuda_obc_weights": ["obc_weights.cu", "obc_solve.cuh"],
    "test_cuda_hessian": ["hessian_pack.cuh", "hessian_gram.cuh", "hessian_gather.cuh"],
    "test_cuda_cholesky": ["cholesky_panel.cuh", "cholesky_ladder.cuh", "product.cuh"],
    "test_cuda_sparsegpt": ["sparsegpt_block.cuh", "sparsegpt_lazy.cuh", "sparsegpt_select.cuh"],
}  # fmt: skip


def caught(test: str, libspade: Path, folder: Path, seconds: float) -> bool:
    """Whether the test fails when the headers of `folder` come first."""
    program = folder / "program"
    command = ["g++", "-std=c++17", "-w", "-O1", "-fsanitize=thread", "-DSPADE_CUDA_EMULATION"]
    command += [f"-I{path}" for path in (folder, CSRC, CSRC / "include", ROOT / "tests" / "cuda")]
    copies = [folder / "cuda" / name for name in SOURCES[test]]
    kernels = [copy if copy.exists() else CSRC / "cuda" / copy.name for copy in copies]
    command += [str(ROOT / "tests" / "cuda" / f"{test}.cpp"), str(CSRC / "core" / "status.cpp")]
    command += [str(CSRC / "core" / "tap_plan.cpp")]
    command += ["-xc++", *map(str, kernels), "-xnone"]
    command += [f"-L{libspade}", "-lspade", f"-Wl,-rpath,{libspade}", "-o", str(program)]
    subprocess.run(command, check=True)
    try:
        return subprocess.run([program], capture_output=True, timeout=seconds).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def unnoticed(test: str, files: list[str], libspade: Path, seconds: float) -> int:
    """Build and run the intact kernel and every copy; how many do not come out as they should."""
    copies: list[tuple[str, int | None]] = [(files[0], None)]
    for header in files:
        lines = (CSRC / "cuda" / header).read_text().splitlines()
        barriers = [i for i, s in enumerate(lines) if re.search(r"__sync(threads|warp)\(\);", s)]
        copies += [(header, i) for i in barriers]
    wrong = 0
    for header, line in copies:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            lines = (CSRC / "cuda" / header).read_text().splitlines()
            if line is not None:
                lines[line] = ""
            (folder / "cuda").mkdir()
            (folder / "cuda" / header).write_text("\n".join(lines) + "\n")
            found = caught(test, libspade, folder, seconds)
        what = "intact" if line is None else f"without line {line + 1}"
        print(f"{header} {what}: {'caught' if found else 'passes'}", flush=True)
        wrong += found == (line is None)
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run one test on some files, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("test", nargs="?", choices=FILES, help="default: all")
    parser.add_argument("files", nargs="*", help="default: all of the test")
    parser.add_argument("--libspade", type=Path, required=True, help="folder of libspade.so")
    parser.add_argument("--seconds", type=float, default=600, help="time of one run")
    options = parser.parse_args(arguments)
    wrong = 0
    for test in [options.test] if options.test else FILES:
        files = options.files or FILES[test]
        wrong += unnoticed(test, files, options.libspade.resolve(), options.seconds)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
