"""The benchmark suite's layers, costs, configurations and published code; its timings are of no concern here."""

import dataclasses
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[2]))

import benchmarks.__main__ as main
from benchmarks import costs, latency, published
from benchmarks.configurations import Part, configurations, targets
from benchmarks.layers import layer_table, layers_of
from benchmarks.rates import Rates


def shapes_of(model, inputs):
    """(rows, channels, kernel, stride, padding, groups, size or positions) of each layer and how many have it."""
    counts = {}

    def note(module, args):
        x = args[0]
        if isinstance(module, nn.Conv2d):
            own = (module.kernel_size[0], module.stride[0], module.padding[0], module.groups)
            key = (module.out_channels, module.in_channels, *own, x.shape[-1])
        else:
            features = module.out_features, module.in_features
            key = (*features, 0, 1, 0, 1, x.shape[:-1].numel())
        counts[key] = counts.get(key, 0) + 1

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(note)
    model.eval()(inputs)
    return counts


def listed(model):
    return {
        (
            s.rows,
            s.channels,
            s.kernel,
            s.stride,
            s.padding,
            s.groups,
            s.size or s.positions,
        ): s.count
        for s in layers_of(model, depthwise=True)
    }


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "convnext_tiny"])
def test_the_table_lists_the_layers_of_torchvision(name):
    from torchvision import models

    with torch.device("meta"):
        assert shapes_of(models.get_model(name), torch.empty(1, 3, 224, 224)) == listed(name)


def test_the_table_lists_the_layers_of_bert():
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForSequenceClassification(transformers.BertConfig())
    assert shapes_of(model, torch.zeros(1, 128, dtype=torch.long)) == listed("bert_base")


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "offsets"),
    [(1, 1, 0, 1), (3, 1, 1, 13), (3, 2, 1, 34), (7, 2, 3, 290), (5, 1, 2, 41), (3, 3, 1, 45)],
)
def test_tap_offsets(kernel, stride, padding, offsets):
    assert costs.tap_offsets(kernel, stride, padding) == offsets


def test_costs_of_whole_networks():
    layers = layers_of("resnet50")

    def total(cost):
        return sum(x.count * cost(x) for x in layers)

    assert total(lambda x: x.rows * x.cols) == pytest.approx(25.5e6, rel=1e-2)
    assert total(lambda x: costs.hessian(x, 1).plain_flop) == pytest.approx(2.04e10, rel=1e-2)
    assert total(lambda x: costs.hessian(x, 1).flop) < 0.6 * 2.04e10
    assert total(lambda x: costs.obc_trace(x.rows, x.cols).flop) == pytest.approx(6.42e13, rel=1e-2)
    assert total(lambda x: costs.damped_inverse(x.cols).flop) == pytest.approx(4.08e11, rel=1e-2)


def test_hessian_cost_counts_products_of_a_pointwise_layer():
    shape = layer_table()["resnet50:layer1.0.conv3"]
    work = costs.hessian(shape, 2)
    n, d = 2 * 56 * 56, 64
    assert work.flop == work.plain_flop == n * d * (d + 1)
    assert work.bytes == 4 * n * d + 16 * d * d


def test_limit_is_arithmetic_or_memory():
    rates = Rates(
        float32=50e-9, float64=20e-9, float16=300e-9, copy=20e-9
    )  # flop and bytes per second
    assert costs.Work(100, 10).floor(rates) == pytest.approx(2)
    assert costs.Work(100, 10, arithmetic="float64").floor(rates) == pytest.approx(5)
    assert costs.Work(100, 10, arithmetic="three fp16 products").floor(rates) == pytest.approx(1)
    assert costs.Work(100, 10, arithmetic="one fp16 product").floor(rates) == pytest.approx(0.5)
    assert costs.Work(100, 100).floor(rates) == pytest.approx(5)


def test_published_latencies():
    assert targets()["spade_icml"].seconds == 41 + 951
    assert targets()["full_evaluation"].seconds == pytest.approx(20.5, abs=0.1)
    for configuration in configurations().values():
        for name in configuration.targets:
            assert targets()[name].source


class Small(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 40, 3))
        self.head = nn.Linear(40, 10)

    def forward(self, x):
        return self.head(self.convolutions(x).mean((2, 3)))


@pytest.fixture
def small(monkeypatch):
    torch.manual_seed(0)
    model = Small().eval()
    monkeypatch.setattr(latency, "network", lambda name, device: model)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
@pytest.mark.parametrize("part", [None, Part(rows=0.25, augmentations=8, samples=2)])
def test_latency_of_a_configuration(small, method, part):
    configuration = dataclasses.replace(
        configurations()["batched-resnet50"], method=method, augmentations=32, samples=3
    )
    result = latency.measure_latency(configuration, part=part, size=16, batch=8)
    assert result["mode"] == ("full" if part is None else "sampled")
    split = result["forward_hessian_seconds"] + result["prune_save_seconds"]
    assert split == pytest.approx(result["total_seconds"]) and split > 0
    assert [layer["cols"] for layer in result["layer_seconds"]] == [27, 72, 40]
    if part is not None:
        assert result["augmentations_run"] == 8
        assert ("rows_share" in result) == (method == "obc")
        assert result.get("samples_run") == (2 if method == "sparsegpt" else None)


def test_latency_on_a_gpu_runs_everything_after_a_small_batch(small, monkeypatch):
    run = []

    def whole(configuration, model, image, settings):
        assert settings["augmentations"] == configuration.augmentations
        run.append((configuration.augmentations, configuration.samples))
        times = dict.fromkeys(("augment", "forward", "hessian", "prune", "save"), 1.0)
        return {"stage_seconds": times}

    monkeypatch.setattr(latency, "run_whole", whole)
    monkeypatch.setattr(latency.machine, "peak_extra_bytes", lambda call, device: call())
    configuration = configurations()["batched-resnet50"]
    result = latency.measure_latency(configuration, part=None, device="meta", batch=16)
    assert run == [(16, 2), (configuration.augmentations, configuration.samples)]
    assert result["mode"] == "full" and result["asynchronous"]
    with pytest.raises(ValueError, match="part must be None on cuda, got Part"):
        latency.measure_latency(configuration, part=Part(), device="cuda")
    command = "benchmarks latency batched-resnet50 --mode sampled --device cuda --output x"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit, match="--mode must be full"):
        main.main()


def test_part_checks_its_arguments():
    with pytest.raises(ValueError, match=r"Part: rows must be in \(0, 1\]"):
        Part(rows=0)


STAND_IN = """
    import torch
    import transformers
    from torch import nn

    torch.backends.cudnn.allow_tf32 = False


    class SparseGPT:
        def __init__(self, layer):
            self.layer, self.x = layer, []

        def add_batch(self, inp, out):
            self.x.append(inp)

        def fasterprune(self, sparsity, blocksize):
            print("pruning")
            torch.cuda.synchronize()
            self.layer.weight.data.zero_()


    class TrueOBS:
        def __init__(self, layer, log_file, always_damp=0):
            self.log = open(log_file, "a")
"""


@pytest.fixture
def checkout(tmp_path):
    """A tree with classes of the published names."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "solver.py").write_text(textwrap.dedent(STAND_IN))
    (tmp_path / "broken.py").write_text("print 'python 2'")
    return tmp_path


def test_published_classes_run_without_cuda(checkout, capsys):
    switch = torch.backends.cudnn.allow_tf32
    found = published.load_published(checkout)
    assert found.files == {"sparsegpt": "src/solver.py", "trueobs": "src/solver.py"}
    assert torch.backends.cudnn.allow_tf32 == switch
    layer = nn.Linear(4, 3)
    made = found.make("sparsegpt", layer)
    with published.running():
        made.add_batch(torch.ones(2, 4), None)
        made.fasterprune(0.5, blocksize=1)
    assert not layer.weight.any()
    assert capsys.readouterr().out == ""
    found.make("trueobs", layer).log.close()


def test_published_code_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="must be a folder"):
        published.load_published(tmp_path / "missing")
    with pytest.raises(ValueError, match="must hold one of the classes TrueOBS"):
        published.load_published(tmp_path)
