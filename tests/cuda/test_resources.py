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


PTX = """
.extern .shared .align 16 .b8 _ZN5spade20spade_dynamic_sharedE[];
.visible .entry _Z4copyPf(
	.param .u64 .ptr .align 1 _Z4copyPf_param_0
)
.maxntid 256, 1, 1
{
	mov.u32 	%r1, _ZN5spade20spade_dynamic_sharedE;
}
.visible .entry _Z4fillPf(
	.param .u64 .ptr .align 1 _Z4fillPf_param_0
)
{
	ret;
}
"""


def table(*values, target="sm_80", threads=256, dynamic=False):
    entry = {"kernels": {"copy": {target: list(values)}}, "launches": {"copy": [threads, dynamic]}}
    return {"sources": {"a.cu": entry}}


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


def test_parse_launches():
    assert resources.parse_launches(PTX) == {"_Z4copyPf": (256, True), "_Z4fillPf": (1024, False)}


@pytest.mark.parametrize(
    "target, registers, shared, threads, blocks",
    [
        ("sm_80", 128, 0, 256, 2),
        ("sm_80", 129, 0, 256, 1),
        ("sm_80", 121, 0, 256, 2),
        ("sm_90", 255, 0, 256, 1),
        ("sm_90", 168, 0, 96, 4),  # three warps in each of four parts
        ("sm_86", 32, 0, 256, 6),
        ("sm_80", 32, 0, 256, 8),
        ("sm_86", 32, 0, 32, 16),
        ("sm_89", 32, 0, 32, 24),
        ("sm_86", 32, 40000, 256, 2),
        ("sm_90", 32, 40000, 256, 5),
    ],
)
def test_resident_blocks(target, registers, shared, threads, blocks):
    launch = resources.Launch(threads, False)
    assert resources.resident_blocks(target, [registers, shared], launch) == blocks


@pytest.mark.parametrize(
    "before, after, options, worse",
    [
        ([128, 0], [255, 0], {}, "blocks 2 -> 1, registers 128 -> 255"),
        ([128, 0], [129, 0], {}, "blocks 2 -> 1"),
        ([121, 0], [128, 0], {}, None),
        ([255, 0], [128, 0], {}, None),
        ([40, 1024], [40, 40000], {}, "blocks 6 -> 4, registers 40 -> 40, shared 1024 -> 40000"),
        ([40, 1024], [40, 20000], {}, None),
        ([40, 1024], [40, 20000], {"target": "sm_86"}, "blocks 6 -> 4"),
        ([40, 1024], [40, 1040], {"dynamic": True}, "blocks 6 -> 6, registers 40 -> 40, shared"),
        ([40, 1024], [40, 1024], {"dynamic": True}, None),
    ],
)
def test_fewer_blocks_at_once_are_a_regression(before, after, options, worse):
    old, new = (table(*values, 0, 0, 0, **options) for values in (before, after))
    found = resources.regressions(old, new["sources"])
    assert len(found) == (worse is not None) and all(worse in text for text in found)


def test_new_kernels_have_nothing_to_compare_with():
    new = table(255, 40000, 0, 0, 0)["sources"]
    assert not resources.regressions({"sources": {}}, new)


def test_stale_sources_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "cuda"
    folder.mkdir()
    (folder / "part.cuh").write_text("int part;  // a number\n")
    source = folder / "a.cu"
    source.write_text('#include "cuda/part.cuh"\n#include "cuda/emulation.h"\n')
    monkeypatch.setattr(resources, "SOURCES", tmp_path)
    written = {"sources": {"a.cu": {"digest": resources.digest(source)}}}
    (folder / "part.cuh").write_text("int part;  // another comment\n")
    (folder / "emulation.h").write_text("int emulated;\n")
    assert not resources.stale(written)
    (folder / "part.cuh").write_text("long part;\n")
    assert resources.stale(written) == [source]
    assert resources.stale({"sources": {}}) == [source]


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


def test_no_kernel_asks_for_its_architecture():
    """All machine code comes from the PTX of one architecture."""
    for path in resources.SOURCES.glob("cuda/*.*"):
        assert "__CUDA_ARCH__" not in path.read_text(), path


def test_table_is_that_of_the_sources():
    table = resources.read()
    assert not resources.stale(table), (
        "csrc/cuda has changed since docs/cuda-resources.json was written: run `python "
        f"tests/cuda/resources.py --write` with nvcc {table['nvcc']}, see that it names no regression, "
        "and commit the table"
    )


def test_nvcc_gives_what_the_table_says():
    table, nvcc, source = resources.read(), resources.find_nvcc(), "obc_weights.cu"
    if not nvcc or resources.nvcc_version(nvcc) != table["nvcc"]:
        pytest.skip(f"no nvcc {table['nvcc']}")
    path = resources.SOURCES / "cuda" / source
    kernels, launches = resources.compile_source(nvcc, path, "sm_80")
    expected = table["sources"][source]["kernels"]
    assert kernels == {name: targets["sm_80"] for name, targets in expected.items()}
    assert launches == dict.fromkeys(("obc_solve<float>", "obc_solve<double>"), (256, True))
