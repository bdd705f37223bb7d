"""The source distribution holds the whole project, and configures with tests and CUDA."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import scipy_openblas32

ROOT = Path(__file__).parents[2]
NOT_SHIPPED = {".ci/run", ".gitignore", ".pre-commit-config.yaml"}


def tracked():
    """Files of the project, as git has them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    command = ["git", "ls-files", "-z"]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(text.split("\0")) - {""}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run([*command, "sdist", "--dist-dir", str(folder)], cwd=ROOT, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder)  # an archive that was written here
    return folder / archive.name.removesuffix(".tar.gz")


def test_it_holds_every_file(unpacked):
    shipped = {str(x.relative_to(unpacked)) for x in unpacked.rglob("*") if x.is_file()}
    missing = {x for x in tracked() - NOT_SHIPPED - shipped if (ROOT / x).exists()}
    assert not missing


@pytest.mark.parametrize("cuda", [False, True], ids=["cpu", "cuda"])
def test_it_configures(unpacked, tmp_path, cuda):
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if cuda and not nvcc:
        pytest.skip("needs nvcc, on the PATH or in CUDACXX")
    command = ["cmake", "-S", str(unpacked), "-B", str(tmp_path), "-G", "Ninja", "-DSPADE_TESTS=ON"]
    command += [f"-DSPADE_CUDA={'ON' if cuda else 'OFF'}"]
    command += [f"-DSPADE_BLAS_DIR={Path(scipy_openblas32.__file__).parent}"]
    if cuda:
        command += [f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    dry = ["ninja", "-C", str(tmp_path), "-n"]  # every source of every target is there
    result = subprocess.run(dry, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
