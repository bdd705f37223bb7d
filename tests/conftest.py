"""Shared set-up of the tests."""

import os

import pytest
import tiny_bert
import torch
from fake_cuda import entered
from hypothesis import settings
from torchvision_operators import declare

import spade_ext

settings.register_profile("untimed", deadline=None)  # other processes share the cores
settings.load_profile("untimed")
declare()

EMULATED = spade_ext.build_info().get("nvcc") == "emulated"
NO_CUDA = "" if torch.cuda.is_available() else "torch finds no GPU"
NO_CUDA = NO_CUDA or ("" if spade_ext.cuda_is_available() else spade_ext.build_info()["cuda"])
EACH = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA))]


def pytest_configure():
    """With SPADE_REQUIRE_CUDA no test passes for want of a GPU."""
    if NO_CUDA and os.environ.get("SPADE_REQUIRE_CUDA"):
        raise pytest.UsageError(f"SPADE_REQUIRE_CUDA is set, and {NO_CUDA}")


def pytest_collection_modifyitems(items):
    """Begin with the fuzz, much the longest test: begun last, it would run beside idle workers."""
    items.sort(key=lambda item: item.path.name != "test_fuzz.py")


@pytest.fixture(autouse=True)
def _seed():
    """Draws of a test do not depend on which tests its process ran before."""
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", "cuda"] if EMULATED else EACH)
def device(request):
    """Each device that ops run on; CUDA is fake over emulated kernels, and reported as skipped where there is none."""
    if request.param == "cuda" and EMULATED:
        return request.getfixturevalue("fake_cuda").device
    return torch.device(request.param)


@pytest.fixture(params=EACH)
def torch_device(request):
    """As device, without the fake one: for what needs more of a device than ops do, such as storages."""
    return torch.device(request.param)


@pytest.fixture
def cuda(request, monkeypatch):
    """A CUDA device: the fake one over emulated kernels, else a GPU without TF32; skipped where there is none."""
    if EMULATED:
        return request.getfixturevalue("fake_cuda").device
    if NO_CUDA:
        pytest.skip(NO_CUDA)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device("cuda", 0)


@pytest.fixture
def fake_cuda(monkeypatch):
    """A CUDA device that is none, for the Python layer over emulated kernels; see fake_cuda.py."""
    if not EMULATED:
        pytest.skip("SPADE_CUDA_LIBRARY names no emulated backend")
    with entered(monkeypatch) as device:
        yield device


@pytest.fixture
def on_device(fake_cuda):
    """Puts tensors on the fake device."""
    return fake_cuda.place


@pytest.fixture(scope="session")
def berts(tmp_path_factory):
    """Takes a kind of `tiny_bert`; gives the folder of a tiny BERT, trained once per process."""
    pytest.importorskip("transformers")
    base, made = tmp_path_factory.mktemp("berts"), {}

    def folder(kind="sst2"):
        if kind not in made:
            made[kind] = tiny_bert.write(base / kind, kind)
        return made[kind]

    return folder
