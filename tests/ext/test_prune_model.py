"""prune_model: a whole model calibrated and pruned in one call."""

import copy

import pytest
import torch
from torch import nn

import spade_ext


class Blocks(nn.Module):
    """Two residual blocks, a convolution before them, a head, a layer that is not called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2)
        )
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        self.spare = nn.Linear(8, 4)

    def forward(self, x, scale=1.0):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return self.head(input=self.drop(x.mean(1) * scale))


def batches(count=3):
    return [torch.randn(8, 3, 6, 6) for _ in range(count)]


def adding(total):
    return lambda module, args, kwargs: total.update(args[0] if args else kwargs["input"])


def by_hand(model, data, sparsity, stages):
    """The same by single steps: a pass for each stage, whose layers see what earlier stages have left."""
    model = copy.deepcopy(model).eval()
    for names in stages:
        sums = {name: spade_ext.HessianAccumulator(model.get_submodule(name)) for name in names}
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(adding(total), with_kwargs=True)
            for name, total in sums.items()
        ]
        with torch.no_grad():
            for x in data:
                model(x)
        for hook in hooks:
            hook.remove()
        for name in names:
            layer = model.get_submodule(name)
            block = 9 if isinstance(layer, nn.Conv2d) else 128
            weight = layer.weight.data.flatten(1)
            pruned = spade_ext.sparsegpt_prune(
                weight, sums[name].hessian, sparsity, block_size=block
            )
            layer.weight.data = pruned.reshape(layer.weight.shape)
    return model


NAMES = ["stem", "blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2", "head"]


def test_layers_see_what_earlier_blocks_have_left():
    model, data = Blocks().train(), batches()
    stages = [NAMES[:1], NAMES[1:3], NAMES[3:5], NAMES[5:]]
    expected = by_hand(model, data, 0.5, stages)
    calls = []
    report = spade_ext.prune_model(
        model, data, 0.5, progress=lambda done, total: calls.append((done, total))
    )
    for got, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(got, wanted)
    assert [r.name for r in report] == [*NAMES, "spare"]
    assert [r.status for r in report] == ["pruned"] * 6 + ["unused"]
    assert all(abs(r.sparsity - 0.5) < 0.01 and 0 < r.relative_loss < 1 for r in report[:-1])
    assert calls == [(i + 1, 6) for i in range(6)]
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("memory, stages", [(2**30, [NAMES]), (1, [[name] for name in NAMES])])
def test_memory_ends_a_group(memory, stages):
    model, data = Blocks(), batches()
    expected = by_hand(model, data, 0.5, stages)
    spade_ext.prune_model(model, data, 0.5, max_memory=memory, sequential=False)
    for got, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(got, wanted)


def test_patterns_of_names_and_of_weights():
    model = Blocks()
    report = spade_ext.prune_model(
        model,
        [(x,) for x in batches()],
        {"blocks.0.*": 0.75, "head": 0.5},
        layers=["blocks.*", "head"],
    )
    assert [(r.name, r.sparsity) for r in report] == [
        ("blocks.0.0", 0.75),
        ("blocks.0.2", 0.75),
        ("head", 0.5),
    ]
    model = Blocks()
    report = spade_ext.prune_model(
        model, [{"x": x} for x in batches()], method="obc", pattern="2:4"
    )
    statuses = {r.name: r.status for r in report}
    assert statuses["stem"] == "unfit" and statuses["blocks.0.0"] == "pruned"
    groups = model.blocks[0][2].weight.data.view(8, 4, 4)
    assert ((groups == 0).sum(2) == 2).all()


def test_exact_obc_loses_less():
    data, losses = batches(), {}
    for method in ("obc", "sparsegpt"):
        torch.manual_seed(0)
        report = spade_ext.prune_model(Blocks(), data, 0.7, method=method, layers="blocks.*")
        losses[method] = sum(r.relative_loss for r in report)
    assert losses["obc"] < losses["sparsegpt"]


def test_a_convolution_of_groups():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 16, 3))
    for method in ("obc", "sparsegpt"):
        copied = copy.deepcopy(model)
        report = spade_ext.prune_model(copied, batches_of(4), 0.5, method=method)
        assert [r.sparsity for r in report] == pytest.approx([0.5, 0.5], abs=0.02)


def batches_of(channels):
    return [torch.randn(16, channels, 6, 6) for _ in range(10)]


def test_a_singular_layer_is_left_dense_and_told(monkeypatch):
    def fails(*args, **kwargs):
        raise spade_ext.SingularHessianError("no")

    monkeypatch.setattr("spade_ext.layer_matrix.sparsegpt_prune", fails)
    model = Blocks()
    before = model.head.weight.clone()
    (report,) = spade_ext.prune_model(model, batches(), 0.5, layers="head")
    assert (report.status, report.sparsity) == ("failed", 0.0) and torch.equal(
        model.head.weight, before
    )


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"method": "best"}, ValueError, "method must be one of obc, sparsegpt, got 'best'"),
        ({"pattern": "4:2"}, ValueError, r'pattern must be "n:m" with n at most m, got \'4:2\''),
        ({"sparsity": 1.5}, ValueError, r"sparsity must be in \[0.0, 1.0\], got 1.5"),
        ({"layers": "nothing"}, ValueError, "must name a layer of the model, got none"),
        ({"batches": []}, ValueError, "batches must hold a batch, got none"),
        ({"batches": iter([])}, TypeError, "gone over more than once, got an iterator"),
        ({"damp": -1.0}, ValueError, "damp must be in"),
        ({"max_memory": 0}, ValueError, "max_memory must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options, error, text):
    arguments = {"batches": batches(1), "sparsity": 0.5} | options
    with pytest.raises(error, match=f"prune_model: .*{text}"):
        spade_ext.prune_model(Blocks(), **arguments)


def test_an_exception_of_the_model_leaves_no_hooks():
    class Fails(Blocks):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("broken")

    model = Fails().train()
    with pytest.raises(RuntimeError, match="broken"):
        spade_ext.prune_model(model, batches(), 0.5)
    assert model.training and not any(m._forward_pre_hooks for m in model.modules())
