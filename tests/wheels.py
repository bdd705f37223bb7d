"""Build the package's wheels for every Python that is found, make them manylinux, and try each in a clean environment.

    python tests/wheels.py OUTPUT [PYTHON ...]

Without PYTHON: python3.10 to python3.14, as far as they are on PATH or in pyenv. pybind11 has no stable ABI, so that
each Python needs a binding of its own; libspade is compiled once, in build/wheels, and shared by all. auditwheel needs
patchelf; OpenMP's runtime stays out, since torch brings the one that a process is to have.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
SMOKE = """
import torch, spade_ext
h = spade_ext.hessian(torch.randn(200, 64))
assert int((spade_ext.sparsegpt_prune(torch.randn(32, 64), h, 0.75) == 0).sum()) == 1536
assert int((spade_ext.obc_prune(torch.randn(4, 64), h, 0.5) == 0).sum()) == 128
print(spade_ext.build_info())
"""


def run(*command: object, **options: object) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True, **options
    )
    return str(done.stdout)


def pythons() -> list[str]:
    """The interpreters of this machine, one per version."""
    found = []
    for version in VERSIONS:
        in_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        on_path = shutil.which(f"python{version}", path=os.environ["PATH"])
        if in_pyenv or on_path:
            found.append(str(in_pyenv[-1] if in_pyenv else on_path))
    return found


def build(python: str, folder: Path) -> Path:
    """The wheel of one Python, manylinux, in a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "SPADE_BUILD_DIR": str(ROOT / "build" / "wheels")}
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", scratch, ROOT, env=environment)
        (plain,) = Path(scratch).glob("*.whl")
        run(
            sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "-w", folder, plain
        )  # fmt: skip
        name = plain.name.split("-linux_")[0]
    return max(folder.glob(f"{name}-*.whl"), key=lambda path: path.stat().st_mtime)


def smoke(python: str, wheel: Path) -> str:
    """Install a wheel into a clean environment and use it there."""
    with tempfile.TemporaryDirectory() as scratch:
        run(python, "-m", "venv", scratch)
        own = Path(scratch) / "bin" / "python"
        constraints = ROOT / "constraints.txt"
        run(own, "-m", "pip", "install", "-q", "-c", constraints, "torch")
        run(own, "-m", "pip", "install", "-q", "-c", constraints, wheel)
        return run(own, "-c", SMOKE, cwd=scratch).strip()


def main(arguments: list[str]) -> None:
    """Build, repair and try the wheels."""
    folder = Path(arguments[0]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for python in arguments[1:] or pythons():
        wheel = build(python, folder)
        print(f"{wheel.name}: {smoke(python, wheel)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
