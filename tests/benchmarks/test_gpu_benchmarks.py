"""What the benchmarks do on a GPU beyond timing: tables of kernels from a profiler's events, goals, parts."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))

import benchmarks.__main__ as main
from benchmarks import (
    device_kernels,
    figures,
    gpu_parts,
    kernel_counts,
    machine,
    plain_torch,
    report,
)
from benchmarks.configurations import configurations, goals
from benchmarks.costs import Work
from benchmarks.layers import layer_table, layers_of
from benchmarks.markdown import device
from benchmarks.rates import Rates
from spade_ext import reference
from spade_xai.models.layers import find_layers

NAMES = {
    "void spade::cuda::obc::obc_panel<256, 4, 16>(spade::cuda::obc::PanelTask)": "obc_panel",
    "spade::cuda::obc::obc_update_ffma(spade::cuda::obc::UpdateTask)": "obc_update_ffma",
    "void spade::cuda::(anonymous namespace)::gather_kernel<float, 64, 32, 32, "
    "(spade::cuda::Arithmetic)0>(float const*, spade::cuda::Unfold)": "gather_kernel",
    "_ZN5spade4cuda3obc15obc_update_ffmaENS1_10UpdateTaskE": "obc_update_ffma",
    "_ZN5spade4cuda12_GLOBAL__N_113gather_kernelIfLi64EEEvPKf": "gather_kernel",
    "void at::native::elementwise<spade::cuda::X>(int)": device_kernels.OTHERS,
    "Memcpy DtoD (Device -> Device)": device_kernels.OTHERS,
    "sm90_xmma_gemm_f32f32": device_kernels.OTHERS,
}
RATES = Rates(float32=50e3, float64=30e3, float16=600e3, copy=4e3)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_by_their_names(name):
    assert device_kernels.kernel_of(name) == NAMES[name]


def test_counted_kernels_exist():
    text = "".join(path.read_text() for path in Path(__file__).parents[2].glob("csrc/cuda/*.cu*"))
    shape = layer_table()["resnet50:layer1.0.conv2"]
    depthwise = layer_table()["mobilenet_v2:features.12.conv.1.0"]
    counts = kernel_counts.together(
        [
            *(kernel_counts.obc_trace(4, cols) for cols in (16, 300, 700)),
            kernel_counts.obc_trace(4, 700, "fp16"), kernel_counts.obc_pattern(4, 16),
            kernel_counts.obc_weights(4, 16, 0.5), kernel_counts.hessian(shape, 2),
            kernel_counts.hessian(depthwise, 2), kernel_counts.sparsegpt(4, 300),
        ]
    )  # fmt: skip
    assert [kernel for kernel in counts if f" {kernel}(" not in text] == []


def test_table_of_kernels():
    panel, update, copy = (list(NAMES)[i] for i in (0, 1, 6))
    events = [(panel, 1e-3), (update, 2e-3), (copy, 0.5e-3), (panel, 3e-3)]
    counts = {
        "obc_panel": [Work(1e9, 1e6)],
        "obc_update_ffma": [Work(50e9, 1e6), Work(25e9, 1e6)],
    }
    first, second, rest = device_kernels.table(events, counts, RATES)
    assert (first["kernel"], first["calls"], first["seconds"]) == ("obc_panel", 2, 4e-3)
    assert first["bound"] == "latency" and first["floor"] == "float32"
    assert second["tflops"] == pytest.approx(37.5) and second["bound"] == "float32"
    assert second["floor_seconds"] == pytest.approx(1.5e-3)
    assert second["tbs"] == pytest.approx(1e-3)
    assert rest == {"kernel": device_kernels.OTHERS, "calls": 1, "seconds": 0.5e-3}
    half = Work(60e9, 1e6, arithmetic="three fp16 products")
    (row,) = device_kernels.table([(update, 1e-3)], {"obc_update_ffma": [half]}, RATES)
    assert row["floor_seconds"] == pytest.approx(0.3e-3) and row["bound"] == half.arithmetic
    (row,) = device_kernels.table([(update, 1e-3)], {"obc_update_ffma": [Work(1e9, 3e9)]}, RATES)
    assert row["bound"] == "memory" and row["tbs"] == pytest.approx(3)


def test_what_the_profiler_saw(monkeypatch):
    def event(name, kind, mark=False):
        span = SimpleNamespace(elapsed_us=lambda: 7.0)
        return SimpleNamespace(
            name=name, device_type=kind, is_user_annotation=mark, time_range=span
        )

    kinds = torch.autograd.DeviceType
    seen = [event("a", kinds.CUDA), event("b", kinds.CPU), event("c", kinds.CUDA, True)]

    class Profile:
        def __init__(self, activities):
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self):
            return SimpleNamespace(events=lambda: seen)

        def __exit__(self, *_):
            called.append("end")

    called = []
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: called.append("wait"))
    events = device_kernels.recorded(lambda: called.append("call"))
    assert events == [("a", pytest.approx(7e-6))] and called == ["call", "wait", "end"]


def test_counts_of_exact_obc():
    rows, cols = 512, 4608
    works = {update: kernel_counts.obc_trace(rows, cols, update) for update in ("ffma", "fp16")}
    for update, kernel in (("ffma", "obc_update_ffma"), ("fp16", "obc_update_half")):
        (work,) = works[update][kernel]
        assert work.flop == pytest.approx(rows * cols**3 / 3, rel=0.05)
        assert work.bytes == pytest.approx(4 * rows * cols**3 / (3 * 128), rel=0.05)
        total = sum(w.flop for w in kernel_counts.works_of(works[update]))
        assert total == pytest.approx(rows * cols**3 / 3, rel=0.02)
    assert works["fp16"]["obc_update_half"][0].arithmetic == "three fp16 products"
    # ResNet50 by docs/cuda.md
    counts = kernel_counts.network(layers_of("resnet50"), update="ffma")
    wide = [w for name in ("obc_update_ffma", "obc_panel") for w in counts[name]]
    assert sum(w.flop for w in kernel_counts.works_of(counts) if w.arithmetic == "float32") == (
        pytest.approx(6.4e13, rel=0.02)
    )
    # the first update of a row reads the shared inverse
    assert sum(w.bytes for w in counts["obc_update_ffma"]) == pytest.approx(2.0e12, rel=0.06)
    assert len(wide) == 2 * sum(x.count for x in layers_of("resnet50") if x.cols > 576)


def test_counts_of_hessians_and_sparsegpt():
    layers = layers_of("resnet50")
    each = [kernel_counts.network(layers, batches=16, batch=64, itemsize=size) for size in (4, 2)]
    gram = sum(w.flop for name in ("gram_kernel", "gather_kernel") for w in each[0][name])
    assert gram == pytest.approx(1.05e13, rel=0.1)  # docs/cuda.md adds borders and empty tiles
    read = sum(w.bytes for name in ("largest_kernel", "pack_kernel") for w in each[0][name])
    grams = sum(w.bytes for w in each[0]["gram_kernel"])
    assert read + grams == pytest.approx(1.6e11, rel=0.05)
    assert len(each[0]["gram_kernel"]) == 16 * 53
    assert "pack_kernel" not in each[1]  # bfloat16, channels last
    kinds = {w.arithmetic for w in each[1]["gram_kernel"]}
    assert kinds == {"one fp16 product"}
    assert {w.arithmetic for w in each[1]["gather_kernel"]} == {"three fp16 products"}  # images
    counts = kernel_counts.network(layers, sparsegpt_samples=25)
    assert sum(w.flop for w in counts["update_trailing"]) == pytest.approx(3.4e12, rel=0.1)
    assert sum(w.bytes for w in counts["update_trailing"]) == pytest.approx(4.3e11, rel=0.1)
    assert sum(w.flop for w in counts["carry_errors"]) == pytest.approx(1.4e12, rel=0.15)
    floats = kernel_counts.sparsegpt(64, 576, double=False)["update_trailing"][0]
    assert floats.arithmetic == "float32"


def test_plain_torch_hessians():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    )
    batches = torch.rand(6, 3, 8, 8).split(4)
    found = plain_torch.hessians(model, find_layers(model), batches, "float32")
    x = torch.cat(batches)
    expected = reference.hessian(x, kernel_size=3, stride=2, padding=1)
    torch.testing.assert_close(found["0"], expected, rtol=1e-4, atol=1e-4)
    rows = model[1](model[0](x)).detach()
    torch.testing.assert_close(found["2"], rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_plain_torch_is_extrapolated_by_what_it_is_proportional_to(monkeypatch):
    monkeypatch.setattr(machine, "seconds", lambda call, device, rounds: (call(), 2.0)[1])
    layers = [x for x in layers_of("resnet50") if x.name == "fc"]
    whole = plain_torch.exact_obc_seconds(layers, [(2, 16), (4, 8)], "cpu")
    assert whole == pytest.approx(4 * 1000 * 2048**3 / (2 * 16**3 + 4 * 8**3))
    whole = plain_torch.sparsegpt_seconds(layers, [(2, 16, 4)], 0.5, "cpu")
    assert whole == pytest.approx(2 * 2048 / 16)


def test_goals_are_compared_on_a_gpu(tmp_path):
    values = {"exact_obc": 2.0, "hessian_error": 2e-6}
    limits = dict.fromkeys(("sgemm_gflops", "float64_gflops", "fp16_gflops", "copy_gbs"), 1e3)
    table = device_kernels.table([("spade::cuda::obc::obc_start(X)", 1e-3)], {}, RATES)
    data = {
        "command": "c", "datetime": "now", "commit": "0" * 40,
        "machine": {
            "cpu": "x", "cores": 2, "device": "NVIDIA H200", "threads": 2, "python": "3",
            "torch": "2", "driver": "999.1", "torch_cuda": "13.0",
            "spade_ext": {"version": "1", "compiler": "c", "cpu_isa": "a", "blas": "b", "cuda": "y"},
        },
        "benchmarks": [
            {
                "name": f"f.py::{name}", "goal": name, "value": value, "reference": "torch",
                "reference_seconds": 40.0 if name == "exact_obc" else None,
                "device_kernels": table, "device_limits": limits,
            }
            for name, value in values.items()
        ],
    }  # fmt: skip
    assert [row["met"] for row in report.reached(data)] == [True, False]
    report.write_report(tmp_path / "a.html", data)
    text = (tmp_path / "a.html").read_text()
    assert "driver 999.1, torch for CUDA 13.0" in text and goals()["exact_obc"].what in text
    assert "<td>20<td>torch" in text and "obc_start" in text and "saw nothing" not in text
    blind = {**data, "benchmarks": [{**data["benchmarks"][0], "device_kernels": []}]}
    report.write_report(tmp_path / "a.html", blind)
    assert "The profiler saw nothing of: f.py::exact_obc." in (tmp_path / "a.html").read_text()
    data["machine"]["device"] = "another"
    assert [row["met"] for row in report.reached(data)] == [None, None]
    data["machine"]["device"] = "cpu"
    assert report.reached(data) == []


def test_documents_say_whether_gpu_times_are_measured():
    measured = any(device(data) == data["machine"]["device"] for data in figures.results().values())
    for name in ("README.md", "docs/performance.md"):
        assert ("not measured yet" in (main.ROOT / name).read_text()) == (not measured)


def test_driver_version(monkeypatch):
    told = SimpleNamespace(stdout="580.65.06\n580.65.06\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: told)
    assert machine.driver_version() == "580.65.06"

    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(machine.subprocess, "run", missing)
    assert machine.driver_version() is None


@pytest.mark.parametrize(
    ("capability", "update", "double"),
    [((8, 0), "fp16", True), ((8, 6), "ffma", False), ((9, 0), "fp16", True), ((12, 0), "fp16", False)],
)  # fmt: skip
def test_forms_by_compute_capability(monkeypatch, capability, update, double):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert machine.obc_update("cuda") == update and machine.fast_double("cuda") == double
    assert machine.obc_update("cpu") == "ffma" and not machine.fast_double("cpu")


def test_parts_are_all_benchmarks_of_a_gpu():
    files = {name for part in gpu_parts.PARTS for name in gpu_parts.files_of(part)}
    every = {path.name for path in main.HERE.glob("bench_*.py")}
    assert (
        every - files
        == {"bench_flows.py", "bench_overhead.py", "bench_published.py", "bench_wide.py"}
        and files <= every
    )
    parts = ("traces", "long-traces")
    chosen = [word.split("=")[1] for p in parts for word in gpu_parts.options_of(p, False)]
    assert sorted(chosen) == sorted(configurations())
    assert gpu_parts.options_of("traces", True) == gpu_parts.options_of("goals", False) == []


def test_each_part_has_its_results(tmp_path, monkeypatch):
    run = []

    def measure(arguments, options, name):
        run.append((name, "--device=cuda" in arguments))
        if name == "gpu-hessian":
            sys.exit(1)
        return name == "gpu-scaling"

    monkeypatch.setattr(main.spade_ext, "cuda_is_available", lambda: True)
    monkeypatch.setattr(main, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="hessian, scaling: benchmarks failed"):
        main.main()
    assert run == [(f"gpu-{part}", True) for part in gpu_parts.PARTS]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", "--part", "goals", "--output", "x"])
    main.main()
    assert run[-1][0] == "gpu-goals"


def test_an_interrupt_keeps_what_was_measured(monkeypatch):
    class Interrupted:
        """pytest, which writes its file at an interrupt."""

        def __init__(self, call, cwd, env):
            (self.file,) = (x.split("=")[1] for x in call if x.startswith("--benchmark-json"))
            self.waits = 0

        def wait(self):
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt
            known = {"machine_info": {}, "commit_info": {"commit": "c"}, "benchmarks": []}
            Path(self.file).write_text(json.dumps(known))
            return 2

    monkeypatch.setattr(main.subprocess, "Popen", Interrupted)
    data = main.run_pytest([], "command", False)
    assert data["failed"] and data["commit"] == "c"
