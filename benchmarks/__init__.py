"""The benchmark suite: `python -m benchmarks --help` from a checkout; docs/performance.md explains the figures."""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"


def _find_packages() -> None:
    """Let a checkout whose extension is not built in place not hide the installed packages."""
    built = any((ROOT / "spade_ext" / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    if not built:
        sys.path[:] = [p for p in sys.path if Path(p).resolve() != ROOT] + [str(ROOT)]
    if importlib.util.find_spec("spade_xai") is None:
        sys.path.append(str(ROOT / "python"))


_find_packages()
