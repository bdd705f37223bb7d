"""The committed table of registers and spills of the CUDA kernels."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("resources", Path(__file__).parent / "resources.py")
resources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(resources)

LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4copyPf' for 'sm_80'
ptxas info    : Function properties for _Z4copyPf
    8 bytes stack frame, 4 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size, 6112 bytes smem
ptxas info    : Function properties for _Z4fillPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 41 registers, used 0 barriers, 496 bytes cmem[0]
"""


def table(*values):
    return {"sources": {"a.cu": {"kernels": {"copy": {"sm_80": list(values)}}}}}


def test_parse():
    assert resources.parse(LOG) == {
        "_Z4copyPf": [128, 6112, 8, 4, 16],
        "_Z4fillPf": [41, 0, 0, 0, 0],
    }


def test_demangle():
    names = [
        "_ZN5spade4cuda3obc8obc_warpILi16EEEvNS1_7ObcRowsEl",
        "_ZN5spade4cuda12_GLOBAL__N_14packIfLNS0_4ModeE1EEEvNS1_5InputEPKT_",
    ]
    assert resources.demangle(names) == ["obc_warp<16>", "pack<float, (Mode)1>"]


def test_regressions():
    clean, spills = table(128, 0, 0, 0, 0), table(128, 0, 8, 4, 16)
    (text,) = resources.regressions(clean, spills["sources"])
    assert text.startswith("a.cu copy sm_80:") and "'spill_stores': 4" in text
    assert not resources.regressions(spills, spills["sources"])
    assert not resources.regressions(spills, clean["sources"])


def test_no_kernel_of_the_table_spills():
    committed = resources.read()
    assert committed["sources"] and not resources.spilling(committed["sources"])
    for entry in committed["sources"].values():
        assert all(set(t) == set(resources.TARGETS) for t in entry["kernels"].values())


def test_kernels_declare_what_launches_assume():
    """Launches with up to 8 KB of dynamic shared memory do not ask for more than 48 KB in all."""
    shared = resources.COLUMNS.index("shared")
    for entry in resources.read()["sources"].values():
        for targets in entry["kernels"].values():
            assert all(values[shared] <= 40 * 1024 for values in targets.values())


def test_changed_sources_do_not_spill():
    changed = resources.stale(resources.read())
    nvcc = resources.find_nvcc()
    if changed and not nvcc:
        pytest.skip(f"no nvcc to compile {[source.name for source in changed]} with")
    assert not resources.spilling(resources.measure(nvcc, changed) if changed else {})
