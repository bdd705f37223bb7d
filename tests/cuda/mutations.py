"""Remove each barrier of a kernel in turn: ThreadSanitizer must report every copy that lacks one.

`python tests/cuda/mutations.py TEST HEADER... --libspade FOLDER` builds tests/cuda/TEST.cpp against copies of
csrc/cuda/HEADER without one __syncthreads() or __syncwarp() each, and prints which copies pass; a barrier that can
go unnoticed is not needed, or not tested. Exit status 1 if there is one, or if the intact kernel fails.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"


def caught(test: str, libspade: Path, folder: Path, seconds: float) -> bool:
    """Whether the test fails when the headers of `folder` come first."""
    program = folder / "program"
    command = ["g++", "-std=c++17", "-w", "-O1", "-fsanitize=thread", "-DSPADE_CUDA_EMULATION"]
    command += [f"-I{path}" for path in (folder, CSRC, CSRC / "include", ROOT / "tests" / "cuda")]
    command += [str(ROOT / "tests" / "cuda" / f"{test}.cpp"), str(CSRC / "core" / "status.cpp")]
    command += [f"-L{libspade}", "-lspade", f"-Wl,-rpath,{libspade}", "-o", str(program)]
    subprocess.run(command, check=True)
    try:
        return subprocess.run([program], capture_output=True, timeout=seconds).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main(arguments: list[str] | None = None) -> int:
    """Build and run the intact kernel and every copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("test")
    parser.add_argument("headers", nargs="+")
    parser.add_argument("--libspade", type=Path, required=True, help="folder of libspade.so")
    parser.add_argument("--seconds", type=float, default=600, help="time of one run")
    options = parser.parse_args(arguments)
    copies: list[tuple[str, int | None]] = [(options.headers[0], None)]
    for header in options.headers:
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
            found = caught(options.test, options.libspade.resolve(), folder, options.seconds)
        what = "intact" if line is None else f"without line {line + 1}"
        print(f"{header} {what}: {'caught' if found else 'passes'}", flush=True)
        wrong += found == (line is None)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
