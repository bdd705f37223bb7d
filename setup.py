"""Build libspade and its binding with CMake and ninja, and lay them into the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def blas_options() -> list[str]:
    """CMake options for the BLAS of the scipy-openblas32 package; none: a system BLAS."""
    try:
        import scipy_openblas32
    except ImportError:
        return []
    return [f"-DSPADE_BLAS_DIR={Path(scipy_openblas32.__file__).parent}"]


def lasting(build: Path) -> bool:
    """Whether a build folder of an earlier run can be used again: its build program is still there."""
    cache = build / "CMakeCache.txt"
    found = cache.exists() and re.search(r"^CMAKE_MAKE_PROGRAM:\w+=(.+)$", cache.read_text(), re.M)
    return bool(found and Path(found[1]).exists())


class CMakeBuild(build_ext):
    """Configure, build and install the CMake project into the package directory.

    An editable install builds in build/editable and installs into the source tree. It keeps that folder, so that the
    next build compiles what has changed alone. So does a build with the environment variable SPADE_BUILD_DIR, in the
    folder that it names, for one Python after another. Every other build starts anew.
    """

    def build_extension(self, ext: Extension) -> None:
        """Build everything: `ext` stands for the whole CMake project."""
        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        if self.editable_mode:
            package, build = ROOT / "spade_ext", ROOT / "build" / "editable"
        shared = os.environ.get("SPADE_BUILD_DIR")
        start = [] if self.editable_mode and lasting(build) else ["--fresh"]
        if shared:  # each Python, and each build program of an isolated environment, replaces that of the last build
            build = Path(shared).resolve()
            program = f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}"
            start = ["-U", "*Python*", program]
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", *start, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DSPADE_PYTHON=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={package}",
            "-DCMAKE_INSTALL_LIBDIR=lib",
            *blas_options(),
            *os.environ.get("SPADE_CMAKE_ARGS", "").split(),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)
        subprocess.run(["cmake", "--install", str(build)], check=True)

    def copy_extensions_to_source(self) -> None:
        """Copy the extension and what belongs to it into the source tree; an editable build has done so."""
        if self.editable_mode:
            return
        super().copy_extensions_to_source()
        for folder in ("include", "lib"):
            built = Path(self.build_lib, "spade_ext", folder)
            shutil.copytree(built, ROOT / "spade_ext" / folder, dirs_exist_ok=True)
        shutil.copy(Path(self.build_lib, "spade_ext", "_C.pyi"), ROOT / "spade_ext")


setup(ext_modules=[Extension("spade_ext._C", [])], cmdclass={"build_ext": CMakeBuild})
