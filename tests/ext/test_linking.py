"""libspade in other people's programs: an installed one by CMake, pkg-config and ctypes; its sources inside a project.

The sources take minutes to compile, so that their projects are only configured here. SPADE_LONG=1 builds and runs them.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spade_ext

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "native"


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def answer(option):
    return run(sys.executable, "-m", "spade_ext", option, cwd=EXAMPLE).strip()


def test_the_example_by_find_package(tmp_path):
    run("cmake", "-S", EXAMPLE, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={answer('--cmake-dir')}")
    run("cmake", "--build", tmp_path)
    assert (
        run(tmp_path / "prune_layer")
        == f"libspade {spade_ext.__version__}: 1536 of 2048 weights are 0\n"
    )


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config on this machine")
def test_the_example_by_pkg_config(tmp_path):
    environment = {**os.environ, "PKG_CONFIG_PATH": answer("--pkg-config-dir")}
    flags = run("pkg-config", "--cflags", "--libs", "spade", env=environment).split()
    assert (
        run("pkg-config", "--modversion", "spade", env=environment).strip() == spade_ext.__version__
    )
    compiler = os.environ.get("CXX", "c++")
    run(compiler, "-std=c++17", EXAMPLE / "prune_layer.cpp", "-o", tmp_path / "prune_layer", *flags)
    assert "1536 of 2048" in run(tmp_path / "prune_layer")


def test_the_example_by_ctypes(capsys):
    library = answer("--library")
    assert library == spade_ext.library_path()
    assert runpy.run_path(str(EXAMPLE / "prune_layer.py"))["main"](library) == 1536
    assert capsys.readouterr().out == "1536 of 2048 weights are 0\n"


@pytest.mark.parametrize("fetch", [False, True])
def test_the_sources_inside_another_project(tmp_path, fetch):
    build = tmp_path / "build"
    command = [
        "cmake",
        "-S",
        EXAMPLE,
        "-B",
        build,
        f"-DSPADE_SOURCE_DIR={ROOT}",
        "-DSPADE_CUDA=OFF",
    ]
    try:
        import scipy_openblas32
    except ImportError:
        pass
    else:
        command.append(f"-DSPADE_BLAS_DIR={Path(scipy_openblas32.__file__).parent}")
    run(*command, *(["-DFETCH=ON"] if fetch else []))
    cache = (build / "CMakeCache.txt").read_text()
    assert re.search(r"^CMAKE_BUILD_TYPE:STRING=$", cache, re.M)  # the host's, which says nothing
    assert re.search(r"^SPADE_INSTALL:BOOL=OFF$", cache, re.M)
    rules = [p.read_text() for p in build.rglob("cmake_install.cmake") if p.parent != build]
    assert rules and not any("libspade" in text for text in rules)
    if os.environ.get("SPADE_LONG"):
        run("cmake", "--build", build)
        assert "1536 of 2048" in run(build / "prune_layer")


def test_one_version():
    header = (Path(answer("--include-dir")) / "spade" / "spade.h").read_text()
    numbers = re.findall(r"#define SPADE_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert ".".join(numbers) == project == answer("--version") == spade_ext.__version__
    assert spade_ext.build_info()["version"] == project
