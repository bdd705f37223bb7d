"""The installed package as others link it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spade_ext

PROJECT = Path(__file__).parent / "cmake-project"


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


def test_paths():
    assert (Path(query("--include-dir")) / "spade" / "spade.h").is_file()
    assert Path(query("--lib-dir")) == Path(spade_ext.library_path()).parent
    assert list(Path(query("--cmake-dir")).rglob("spadeConfig.cmake"))


def test_build_info():
    info = json.loads(query("--build-info"))
    assert info == spade_ext.build_info()
    assert info["version"] == spade_ext.__version__
    assert info["cpu_isa"] in ("plain", "avx2", "avx512")
    assert not spade_ext.cuda_is_available() and info["cuda"].startswith("unavailable: ")


def test_one_option_is_required():
    command = [sys.executable, "-m", "spade_ext"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 2 and "--cmake-dir" in result.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_only_the_c_api_is_exported():
    command = ["nm", "-D", "--defined-only", "--format=posix", spade_ext.library_path()]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = {line.split()[0] for line in lines}
    assert "spade_obc_trace_f32" in names
    assert {name for name in names if not name.startswith("spade_")} == set()
