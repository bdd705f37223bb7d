import pytest
import torch
from torch import nn

from spade_xai import trace
from spade_xai.measures.baselines import edge_map, magnitude_prune, random_map


def square(size=16):
    x = torch.full((2, 3, size, size), 10.0)
    x[:, :, 5:11, 5:11] = 14.0
    return x


def test_random_map_is_seeded_and_uniform():
    x = torch.zeros(3, 3, 40, 40)
    a = random_map(x, seed=1)
    assert a.shape == (3, 40, 40) and torch.equal(a, random_map(x, seed=1))
    assert not torch.equal(a, random_map(x, seed=2))
    assert a.min() >= 0 and a.max() < 1 and abs(float(a.mean()) - 0.5) < 0.02


@pytest.mark.parametrize("detector", ["sobel", "canny"])
def test_edges_are_at_the_border_whatever_the_scale(detector):
    maps = edge_map(square(), detector=detector)
    border = torch.zeros(16, 16, dtype=torch.bool)
    border[4:12, 4:12] = True
    border[7:9, 7:9] = False
    assert maps.shape == (2, 16, 16) and maps.max() > 0
    assert (maps[0][~border] < 0.01).all()  # kornia's Sobel adds 1e-6 under its root
    torch.testing.assert_close(edge_map(square() * 7 - 3, detector=detector), maps)


def test_sobel_by_hand():
    x = (
        torch.arange(8.0).expand(1, 1, 8, 8) / 7
    )  # slope 1/7 to the right; kornia divides by 8 and adds 1e-6
    interior = edge_map(x)[0, 2:-2, 2:-2]
    expected = torch.full_like(interior, ((1 / 7) ** 2 + 1e-6) ** 0.5)
    torch.testing.assert_close(interior, expected)


def test_images_are_checked():
    with pytest.raises(
        ValueError, match=r"edge_map: x must have shape \[B, C, H, W\], got \(3, 4\)"
    ):
        edge_map(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="random_map: x must have shape"):
        random_map(torch.zeros(3))
    with pytest.raises(ValueError, match="edge_map: detector must be 'sobel' or 'canny', got 'x'"):
        edge_map(square(), detector="x")


def test_magnitude_pruning_removes_the_smallest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 2), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 1))
    before = [p.clone() for p in model.parameters()]
    sparse = magnitude_prune(model, 0.95)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    for index, count in ((0, 38), (3, 19)):
        weight, kept = model[index].weight, sparse[index].weight
        gone = kept == 0
        assert int(gone.sum()) == count
        assert weight[gone].abs().max() <= weight[~gone].abs().min()
        assert torch.equal(kept[~gone], weight[~gone])
        assert sparse[index].bias is model[index].bias
    named = magnitude_prune(model, {"3": 0.5})
    assert named[0].weight is model[0].weight and int((named[3].weight == 0).sum()) == 10
    tied = nn.Linear(4, 1)
    nn.init.ones_(tied.weight)
    assert magnitude_prune(tied, 0.5).weight.tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="magnitude_prune: sparsity must take a layer, 'x'"):
        magnitude_prune(model, {"x": 0.5})
    with pytest.raises(ValueError, match=r"'3' must be in \[0, 1\], got 1.5"):
        magnitude_prune(model, {"3": 1.5})
    with pytest.raises(ValueError, match="sparsity must be given: no sample tells"):
        magnitude_prune(model, "faithful")


def test_magnitude_pruning_takes_the_layers_that_traces_take():
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "depthwise": nn.Conv2d(4, 4, 3, groups=4),
        "attention": nn.MultiheadAttention(8, 2),
        "head": nn.Linear(8, 2),
    })  # fmt: skip
    sparse = magnitude_prune(model, 0.5)
    assert sparse["depthwise"].weight is model["depthwise"].weight
    attention = sparse["attention"]
    for i in range(3):
        assert int((attention.in_proj_weight[8 * i : 8 * (i + 1)] == 0).sum()) == 32
    assert int((attention.out_proj.weight == 0).sum()) == 32
    named = magnitude_prune(model, {"attention.q_proj": 0.25, "depthwise": 0.5}, depthwise=True)
    assert int((named["attention"].in_proj_weight == 0).sum()) == 16
    assert int((named["depthwise"].weight == 0).sum()) == 18
    assert named["head"].weight is model["head"].weight


def test_a_magnitude_trace_has_the_weights_of_magnitude_pruning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    made = trace(
        model, torch.rand(5, 6), method="magnitude", sparsity=0.5, augment=None, progress=False
    )
    sparse = magnitude_prune(model, 0.5)
    for name in ("0", "2"):
        weight = made.model.get_submodule(name).weight
        assert torch.equal(weight, sparse.get_submodule(name).weight)
    assert all(x.status == "pruned" and x.relative_loss > 0 for x in made.layers)
