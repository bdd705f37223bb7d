"""A plugin of pytest that runs benchmarks with --device=cuda on the device that is none (fake_cuda.py)."""

# First: it lets the installed packages come before a checkout's whose extension is not built.
from benchmarks import device_kernels
from benchmarks.suite import Suite

# isort: split
from dataclasses import replace

import pytest
import torch
from fake_cuda import entered

EVENTS = [("void spade::cuda::obc::obc_panel<256, 4, 16>(spade::cuda::obc::PanelTask)", 1e-3)]


def recorded(call):
    """In place of torch's profiler, which sees no emulated kernel."""
    call()
    return EVENTS


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    with entered(monkeypatch) as device:
        for name, value in {
            "synchronize": None,
            "reset_peak_memory_stats": None,
            "memory_allocated": device.allocated,
            "max_memory_allocated": device.allocated,
            "get_device_capability": (9, 0),
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
        monkeypatch.setattr(device_kernels, "recorded", recorded)
        yield


def pytest_configure():
    read = Suite.of
    # Without an index torch asks the driver for the current device.
    Suite.of = lambda config: replace(read(config), device="cuda:0")
    torch.cuda.get_device_name = lambda *_: "fake"
    # Module.to would keep the parameters, of the CPU's type, and give them other memory.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
