"""The installed package as others link it."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spade_ext
from spade_ext import _build
from spade_ext.__main__ import main

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "cmake-project"


@functools.cache
def query(option):
    command = [sys.executable, "-m", "spade_ext", option]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=PROJECT
    ).stdout.strip()


def test_outside_project_builds_and_runs(tmp_path):
    def cmake(*arguments):
        subprocess.run(["cmake", *arguments], check=True, cwd=tmp_path)

    prefix = query("--cmake-dir")
    cmake("-S", str(PROJECT), "-B", "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    cmake("--build", "build")
    subprocess.run(["ctest", "--output-on-failure"], check=True, cwd=tmp_path / "build")


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("nvcc", [True, False])
def test_cuda_by_default_with_nvcc_and_a_gpu(tmp_path, nvcc, gpu):
    device = tmp_path / "nvidia0"
    if gpu:
        device.touch()
    command = ["cmake", "-S", str(ROOT), "-B", "build"]
    command += [f"-DSPADE_GPU_FILES={tmp_path}/nvidia[0-9]*"]
    command += ["-DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON"]  # stops there, with CUDA decided
    if nvcc:
        command += [f"-DCMAKE_CUDA_COMPILER={tmp_path}/nvcc"]
    environment = {**os.environ, "CUDACXX": f"{tmp_path}/none"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "CMAKE_DISABLE_FIND_PACKAGE_OpenMP" in result.stderr
    found = f"nvcc: {f'{tmp_path}/nvcc' if nvcc else 'NOTFOUND'}, GPUs: {device if gpu else ''}"
    assert f"-- SPADE_CUDA=auto is {'ON' if nvcc and gpu else 'OFF'}; {found}\n" in result.stdout


def test_paths():
    assert (Path(query("--include-dir")) / "spade" / "spade.h").is_file()
    assert Path(query("--lib-dir")) == Path(spade_ext.library_path()).parent
    assert list(Path(query("--cmake-dir")).rglob("spadeConfig.cmake"))


def test_build_info():
    info = json.loads(query("--build-info"))
    assert info == spade_ext.build_info()
    assert info["version"] == spade_ext.__version__
    assert info["cpu_isa"] in info["kernels"].split()
    assert all(info[key] for key in ("compiler", "openmp", "blas"))
    reason = spade_ext._C.cuda_unavailable_reason()
    assert info["cuda"] == (f"unavailable: {reason}" if reason else "available")
    assert spade_ext.cuda_is_available() == (not reason)


@pytest.mark.parametrize("options", [[], ["--cmake-dir", "--lib-dir"], ["--headers"]])
def test_exactly_one_known_option(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(options)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and "--cmake-dir" in said.err and not said.out


@pytest.mark.parametrize("option", ["--cmake-dir", "--include-dir", "--lib-dir"])
def test_missing_files_are_named(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_build, "_ROOT", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([option])
    assert stopped.value.code == 1
    assert f"{tmp_path}/" in (text := capsys.readouterr().err) and "is missing; install" in text


def dynamic(path, tag):
    """Values of one tag of a library's dynamic section."""
    text = subprocess.run(
        ["readelf", "-d", path], check=True, capture_output=True, text=True
    ).stdout
    return [line.split("[")[1].rstrip("]") for line in text.splitlines() if f"({tag})" in line]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_libraries_find_each_other_wherever_the_package_lies():
    library = spade_ext.library_path()
    assert Path(library).name == "libspade.so.0"
    assert dynamic(library, "SONAME") == ["libspade.so.0"]
    assert dynamic(library, "RUNPATH") == ["$ORIGIN"]
    assert "libspade.so.0" in dynamic(spade_ext._C.__file__, "NEEDED")
    assert dynamic(spade_ext._C.__file__, "RUNPATH") == ["$ORIGIN/lib"]


def test_bundled_openblas_comes_with_its_licence():
    directory = Path(spade_ext.library_path()).parent
    if not (directory / "libscipy_openblas.so").exists():
        pytest.skip("built with a system BLAS")
    text = (directory / "libscipy_openblas.LICENSE.txt").read_text()
    assert "The OpenBLAS Project" in text and "LAPACK" in text


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc")
def test_links_without_cmake(tmp_path):
    directory = query("--lib-dir")
    command = [
        "cc", "-std=c99", str(PROJECT / "main.c"), "-o", "consumer", f"-I{query('--include-dir')}",
        f"-L{directory}", "-lspade", f"-Wl,-rpath,{directory}",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path)
    result = subprocess.run([tmp_path / "consumer"], check=True, capture_output=True, text=True)
    assert result.stdout == f"libspade {spade_ext.__version__} works from C\n"


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_only_the_c_api_is_exported():
    command = ["nm", "-D", "--defined-only", "--format=posix", spade_ext.library_path()]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = {line.split()[0] for line in lines}
    assert "spade_obc_trace_f32" in names
    assert {name for name in names if not name.startswith("spade_")} == set()
