"""What a checkpoint of tuning knows of its run, and that nothing else is written over."""

import functools

import pytest
import torch
from torch import nn

from spade_xai.models.forward_pass import same_outputs
from spade_xai.tracing.run import TracingRun
from spade_xai.tuning.identity import told
from spade_xai.tuning.tune import tune

OPTIONS = {"augmentations": 4, "progress": False, "grid": [0.5]}


def network(activation=nn.ReLU, stride=1):
    """A small classifier; activation and stride are not among its tensors."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride, 1), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 3)).eval()


@pytest.fixture
def samples():
    return [torch.rand(1, 3, 8, 8) for _ in range(2)]


class Measure:
    """A measure with masks, a method and a counter."""

    def __init__(self, masks, method="saliency"):
        self.masks, self.method, self.calls = masks, method, 0

    def __call__(self, model, index):
        self.calls += 1
        return float(self.masks[index].mean())


class OtherMeasure(Measure):
    """The same by another class."""


def noise(x):
    return x + 0.1 * torch.rand_like(x)


def flip(x):
    return x.flip(-1)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model": network(nn.GELU)}, "forward"),
        ({"model": network(stride=2)}, "forward"),
        ({"augment": flip}, "augment"),
        ({"augment": functools.partial(torch.add, other=1)}, "augment"),
        ({"metric": Measure([torch.ones(3)] * 2, "lrp")}, "measure"),
        ({"metric": Measure([torch.ones(3), torch.zeros(3)])}, "measure"),
        ({"metric": OtherMeasure([torch.ones(3)] * 2)}, "measure"),
        ({"metric": lambda model, index: 1.0}, "measure"),
        ({"method": "sparsegpt"}, "method"),
    ],
)
def test_another_run_is_refused_and_the_file_stays(samples, tmp_path, change, name):
    path = tmp_path / "run.jsonl"
    first = {"model": network(), "metric": Measure([torch.ones(3)] * 2), "augment": noise}
    tune(samples=samples, checkpoint=path, **first, **OPTIONS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"must belong to this run, {name} differs"):
        tune(samples=samples, checkpoint=path, **{**first, **change}, **OPTIONS)
    assert path.read_bytes() == before
    again = {**first, "metric": Measure([torch.ones(3)] * 2)}  # its counter counts for nothing
    tune(samples=samples, checkpoint=path, **again, **OPTIONS)
    assert again["metric"].calls == 0


def test_hessians_of_another_forward_pass_are_not_taken(samples, tmp_path, monkeypatch):
    options = {"metric": Measure([torch.ones(3)] * 2), "augment": noise, "cache": tmp_path / "c"}
    computed, compute = [], TracingRun.hessians
    monkeypatch.setattr(
        TracingRun, "hessians", lambda *a, **k: computed.append(1) or compute(*a, **k)
    )
    for model, expected in ((network(), 2), (network(), 0), (network(nn.GELU), 2)):
        computed.clear()
        tune(model, samples, **options, **OPTIONS)
        assert len(computed) == expected


@pytest.mark.parametrize("content", [b"notes\n", b"no line end", b'{"format": "other"}\n', b"\xff"])
def test_a_file_that_is_no_checkpoint_is_never_written_over(samples, tmp_path, content):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes is no checkpoint of this version"):
        tune(network(), samples, lambda *_: 1.0, checkpoint=path, augment=noise, **OPTIONS)
    assert path.read_bytes() == content


def test_what_is_told_of_callables():
    def made(value, text="a"):
        return lambda x, k=text: (value, x, k)

    assert told(made(torch.ones(2))) == told(made(torch.ones(2)))
    assert told(made(torch.ones(2))) != told(made(torch.zeros(2)))
    assert told(made(1)) == told(made(2))  # may be a counter
    assert told(made([torch.ones(2)])) != told(made([torch.zeros(2)]))
    assert told(made(1, "a")) != told(made(1, "b"))
    assert told(functools.partial(made, 1)) != told(functools.partial(made, 2))
    assert told(lambda x: x + 1) != told(lambda x: x + 2)
    assert told(nn.Linear(2, 2)) != told(nn.Linear(2, 2))
    named = Measure([])
    named.identity = "by name"
    assert told(named) == f"{__name__}.Measure: by name"
    loop = []
    loop.append(loop)
    assert told(made(loop))


def test_outputs_are_the_same_but_for_rounding():
    nan = float("nan")
    assert same_outputs([1.0, 2.0, nan], [1.0 + 1e-6, 2.0, nan])
    assert not same_outputs([1.0, 2.0], [1.1, 2.0])
    assert not same_outputs([1.0], [1.0, 2.0])
    assert not same_outputs([1.0], [nan])
