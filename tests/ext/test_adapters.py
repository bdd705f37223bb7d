"""Adapters for other pruning projects, against the real packages where they are installed."""

import copy

import pytest
import torch
from problems import layer
from torch import nn
from torch.nn.utils import parametrize, prune

import spade_ext
from spade_ext.adapters.llm_compressor import sparsify_weight
from spade_ext.adapters.model_optimizer import create_sgpt_mask
from spade_ext.adapters.torch_ao import HessianSparsifier
from spade_ext.adapters.torch_prune import ObcPruning, SparseGPTPruning, freeze_masks
from spade_ext.adapters.torch_pruning import HessianImportance
from spade_ext.reference import published


def linear(rows=10, cols=24):
    module, hessian = nn.Linear(cols, rows), layer(rows, cols, dtype=torch.float32)[1]
    return module, hessian


@pytest.mark.parametrize(
    "made, op", [(ObcPruning, spade_ext.obc_prune), (SparseGPTPruning, spade_ext.sparsegpt_prune)]
)
def test_torch_prune(made, op):
    module, hessian = linear()
    expected = op(module.weight.data, hessian, 0.5)
    made.apply(module, "weight", hessian, 0.5)
    assert torch.equal(module.weight, expected) and prune.is_pruned(module)
    assert torch.equal(module.weight_mask, (expected != 0).float())
    y = module(torch.randn(3, 24))  # the hook makes the weight anew
    assert torch.equal(module.weight, expected)
    y.sum().backward()
    assert not module.weight_orig.grad[expected == 0].any()
    prune.remove(module, "weight")
    assert torch.equal(module.weight.data, expected)


def test_torch_prune_again_and_beside_other_methods():
    module, hessian = linear()
    prune.random_unstructured(module, "weight", 0.3)
    first = module.weight == 0
    SparseGPTPruning.apply(module, "weight", hessian, 0.6)
    assert (module.weight == 0)[first].all()
    conv = nn.Conv2d(4, 6, 3, groups=2)
    x = torch.randn(20, 4, 8, 8)
    ObcPruning.apply(conv, "weight", spade_ext.hessian(x, kernel_size=3, groups=2), 0.5)
    assert int((conv.weight == 0).sum()) == conv.weight.numel() // 2
    module, hessian = linear()
    ObcPruning.apply(module, "weight", hessian, n=2, m=4)
    assert ((module.weight.view(10, 6, 4) == 0).sum(2) == 2).all()


def test_a_failure_leaves_the_layer_as_it_was():
    module, _ = linear()
    before = module.weight.clone()
    with pytest.raises(spade_ext.SingularHessianError):
        SparseGPTPruning.apply(module, "weight", -1e9 * torch.eye(24), 0.5)
    assert torch.equal(module.weight, before) and not prune.is_pruned(module)


def test_frozen_masks_survive_momentum_and_decay():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model[0].weight.data[:, :3] = 0
    dense = model[2].weight.data.clone()
    masks = freeze_masks(model)
    assert list(masks) == ["0"]
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().sum().backward()
        optimizer.step()
    assert not model[0].weight[:, :3].any() and model[0].weight[:, 3:].all()
    assert not torch.equal(model[2].weight, dense)
    parametrize.remove_parametrizations(model[0], "weight")
    assert not model[0].weight[:, :3].any()
    with pytest.raises(ValueError, match="masks must name layers with a weight, got '7'"):
        freeze_masks(model, {"7": masks["0"]})
    with pytest.raises(ValueError, match=r"masks\['2'\] must have shape \(2, 5\), got \(5, 6\)"):
        freeze_masks(model, {"2": masks["0"]})


@pytest.mark.parametrize("method", ["sparsegpt", "obc"])
def test_torch_ao(method):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    dense, x = copy.deepcopy(model), torch.randn(200, 3, 6, 6)
    sparsifier = HessianSparsifier(0.5, method=method)
    sparsifier.prepare(
        model, [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "3.weight", "sparsity_level": 0.75}]
    )
    with pytest.raises(RuntimeError, match=r"0\.weight has seen no inputs"):
        sparsifier.step()
    with torch.no_grad():
        model(x)
    sparsifier.step()
    hidden = dense[2](dense[1](dense[0](x))).detach()
    problems = {0: (spade_ext.hessian(x, kernel_size=3), 0.5), 3: (spade_ext.hessian(hidden), 0.75)}
    op = spade_ext.obc_prune if method == "obc" else spade_ext.sparsegpt_prune
    sparsifier.squash_mask()
    for place, (hessian, sparsity) in problems.items():
        expected = op(dense[place].weight.data.flatten(1), hessian, sparsity).reshape(
            dense[place].weight.shape
        )
        torch.testing.assert_close(model[place].weight.data, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(model[place].weight == 0, expected == 0)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert not parametrize.is_parametrized(model[0])


@pytest.mark.parametrize("options", [(0.5, 0, 0, 8), (0.3, 0, 0, 128), (0.0, 2, 4, 128)])
def test_llm_compressors_function(options):
    module, hessian = linear()
    sparsity, n, m, block = options
    expected = published.fasterprune(
        module.weight.data.double(), hessian.double(), sparsity, n, m, block
    )
    table = {module: hessian.clone()}
    loss, weight = sparsify_weight(module, table, sparsity, n, m, block, 0.01, False)
    assert not table and loss > 0
    torch.testing.assert_close(weight.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(weight == 0, expected == 0) and module.weight.all()


def test_llm_compressors_zeros_that_stay():
    module, hessian = linear()
    module.weight.data[:, ::4] = 0
    _, weight = sparsify_weight(module, {module: hessian}, 0.5, 0, 0, 128, 0.01, True)
    assert not weight[:, ::4].any() and int((weight == 0).sum()) == 121
    with pytest.raises(
        ValueError, match=r"at least the share of zeros that are to stay, 0.25, got 0.1"
    ):
        sparsify_weight(module, {module: hessian}, 0.1, 0, 0, 128, 0.01, True)


def test_llm_compressor_itself():
    theirs = pytest.importorskip(
        "llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify"
    ).sparsify_weight
    for options in [
        (0.5, 0, 0, 8, 0.01, False),
        (0.0, 2, 4, 128, 0.01, False),
        (0.6, 0, 0, 128, 0.1, True),
    ]:
        module, hessian = linear()
        module.weight.data[:, ::4] = 0
        ours = sparsify_weight(module, {module: hessian.clone()}, *options)
        expected = theirs(module, {module: hessian.clone()}, *options)
        assert ours[0] == pytest.approx(expected[0], rel=1e-3)
        torch.testing.assert_close(ours[1], expected[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pattern", ["2:4 sparsity", "1:4"])
def test_model_optimizers_function(pattern):
    module, hessian = linear()
    config = {"pattern": pattern, "hessian_damp": 0.1, "col_block_size": 128, "row_block_size": -1}
    n = int(pattern[0])
    expected = published.fasterprune(
        module.weight.data.double(), hessian.double(), 0.0, n, 4, percdamp=0.1
    )
    mask = create_sgpt_mask(module.weight, hessian, config)
    assert torch.equal(mask, expected != 0)
    conv = nn.Conv2d(4, 6, 3)
    h = spade_ext.hessian(torch.randn(30, 4, 8, 8), kernel_size=3)
    assert create_sgpt_mask(conv.weight, h, config).shape == conv.weight.shape
    with pytest.raises(ValueError, match=r"config\['pattern'\] must begin with n:m, got 'dense'"):
        create_sgpt_mask(module.weight, hessian, config | {"pattern": "dense"})


def test_model_optimizer_itself():
    sparsegpt = pytest.importorskip("modelopt.torch.sparsity.weight_sparsity.sparsegpt")
    module, hessian = linear()
    config = {
        "pattern": "2:4 sparsity",
        "hessian_damp": 0.1,
        "col_block_size": 8,
        "row_block_size": -1,
    }
    expected = sparsegpt.create_sgpt_mask(module.weight, hessian.clone(), config)
    assert torch.equal(create_sgpt_mask(module.weight, hessian, config), expected)


@pytest.mark.parametrize("compensate", [True, False])
def test_the_cost_of_a_channel_is_that_of_its_removal(compensate):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3))
    x = torch.randn(60, 3, 9, 9)
    costs = HessianImportance(model, [x[:30], x[30:]], compensate=compensate).of_inputs(model[2])
    weight = model[2].weight.data.double().flatten(1)
    h = spade_ext.hessian(model[1](model[0](x)).detach().double(), kernel_size=3)
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(45) if compensate else h
    for channel in range(5):
        change = weight.clone()
        gone = slice(9 * channel, 9 * channel + 9)
        if compensate:
            rest = [j for j in range(45) if not gone.start <= j < gone.stop]
            new = torch.linalg.solve(damped[rest][:, rest], (weight @ damped)[:, rest].T).T
            change[:, rest] -= new
        else:
            change[:, : gone.start] = change[:, gone.stop :] = 0
        expected = 0.5 * (change @ damped * change).sum() / (weight @ h * weight).sum()
        assert costs[channel].item() == pytest.approx(expected.item(), rel=1e-3)


def test_torch_pruning_itself():
    tp = pytest.importorskip("torch_pruning")
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 25, 4),
    )
    x = torch.randn(40, 3, 9, 9)
    importance = HessianImportance(model, [x])
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x[:1])
    group = graph.get_pruning_group(model[3], tp.prune_conv_out_channels, idxs=list(range(6)))
    flat = importance.of_inputs(model[6]).reshape(6, 25).sum(1)
    torch.testing.assert_close(importance(group), flat)
    head = graph.get_pruning_group(model[6], tp.prune_linear_out_channels, idxs=[0])
    assert importance(head) is None
    pruner = tp.pruner.BasePruner(
        model, x[:1], importance=importance, pruning_ratio=0.5, ignored_layers=[model[6]]
    )
    least = importance.of_inputs(model[3]).argsort()[4:].sort().values
    kept = model[0].weight.data[least].clone()
    pruner.step()
    assert torch.equal(model[0].weight.data, kept) and model(x).shape == (40, 4)


def test_two_of_four_converts_to_sparse_tensors():
    weight, hessian = layer(16, 64, dtype=torch.float32)
    pruned = spade_ext.sparsegpt_prune(weight, hessian, n=2, m=4)
    x = torch.randn(64, 3)
    torch.testing.assert_close(pruned.to_sparse_csr() @ x, pruned @ x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_two_of_four_converts_to_semi_structured_tensors():
    weight, hessian = layer(64, 128, dtype=torch.float32)
    pruned = spade_ext.sparsegpt_prune(weight, hessian, n=2, m=4).cuda().half()
    x = torch.randn(128, 64).cuda().half()
    sparse = torch.sparse.to_sparse_semi_structured(pruned)
    torch.testing.assert_close(sparse @ x, pruned @ x, rtol=1e-2, atol=1e-1)
