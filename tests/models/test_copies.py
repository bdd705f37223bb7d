"""Models as people have them: copies leave them alone, and every entry point works on them or says what to pass."""

import copy
import threading
from functools import partial

import numpy
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from spade_xai import attribute, metrics, prepare, trace
from spade_xai.features.visualize import visualize
from spade_xai.measures.sparse_fc import cache_features
from spade_xai.measures.stability import gradient_noise_similarity
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import find_layers
from spade_xai.trojans.trojan import predictions


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 12), nn.ReLU(), nn.Linear(12, 5)
    )


class Whole(nn.Module):
    """A network that does something else around its layers."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)


class Overwrites(Whole):
    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25))


class Counts(Whole):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x):
        self.steps += 1
        self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).detach().view(3, 1, 1))
        return self.net(x)


class Holds(Whole):
    """Attributes that cannot be copied: a lock, a module object, a tensor with a history."""

    def __init__(self):
        super().__init__()
        self.lock, self.numpy = threading.Lock(), numpy
        self.scale = (self.net[0].weight * 0).sum() + 1
        self.parts = {"locks": [threading.Lock()], "heads": [self.net[0].weight[0] * 0]}

    def forward(self, x):
        with self.lock:
            return self.net(x) * self.scale + self.parts["heads"][0].sum()


class Lists(Whole):
    def __init__(self):
        super().__init__()
        self.blocks = [self.net, nn.Linear(5, 5)]

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x))


class Lightning(Whole):
    """As a LightningModule: it refers to its trainer, which refers to it and holds what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.trainer = type("Trainer", (), {})()
        self.trainer.model, self.trainer.lock = self, threading.Lock()


def hooked():
    model = network()

    def fail(*args):
        raise AssertionError("a hook of the caller ran")

    for module in (model, model[0], model[3]):
        module.register_forward_hook(fail)
        module.register_forward_pre_hook(fail)
        module.register_full_backward_hook(fail)
    return model


def computed(how):
    model = network()
    how(model[0])
    how(model[3])
    return model


def compiled():
    model = torch.compile(network().eval(), backend="eager")
    with torch.no_grad():
        model(torch.rand(2, 3, 8, 8))
    return model


def compiled_inside():
    model = network()
    model[0] = torch.compile(model[0], backend="eager")
    model.compile(backend="eager")
    return model


def inference():
    with torch.inference_mode():
        return network()


PARAMETRIZED = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "weight_norm_new": parametrizations.weight_norm,
    "spectral_norm_new": parametrizations.spectral_norm,
    "pruned": partial(prune.l1_unstructured, name="weight", amount=0.3),
}
MODELS = {
    "overwrites": Overwrites, "counts": Counts, "holds": Holds, "lists": Lists, "lightning": Lightning,
    "hooked": hooked, "compiled": compiled, "compiled_inside": compiled_inside, "inference": inference,
    "parallel": lambda: nn.DataParallel(network()),
    **{name: partial(computed, how) for name, how in PARAMETRIZED.items()},
}  # fmt: skip


def last(model):
    """Name of the last linear layer."""
    return (["0"] + [name for name, m in model.named_modules() if isinstance(m, nn.Linear)])[-1]


ENTRIES = {
    "trace": lambda m, x: trace(m, x, method="sparsegpt", sparsity=0.5, augment=None, progress=False).fidelity(),
    "model": lambda m, x: trace(m, x, sparsity=0.9, augment=None, progress=False).model(x.clone()),
    "augmented": lambda m, x: trace(m, x, method="sparsegpt", sparsity=0.5, augmentations=16, progress=False),
    "prepare": lambda m, x: prepare(m, x),
    **{
        method: partial(lambda k, m, x: attribute(m, x, 0, k, progress=False), method)
        for method in ("saliency", "deep_lift", "lrp", "guided_backprop", "guided_grad_cam", "occlusion")
    },
    "insertion": lambda m, x: metrics.insertion(m, x, x.sum(1), steps=4, progress=False),
    "similarity": lambda m, x: gradient_noise_similarity(m, x[:1], 0, copies=3, layers=[last(m)]),
    "features": lambda m, x: cache_features(m, last(m), [x]),
    "predictions": predictions,
    "visualize": lambda m, x: visualize(m, 0, x.shape[1:], steps=2, progress=False),
}  # fmt: skip


def state_of(model):
    """Everything of a model that a call could change."""
    tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}
    modules = [(name, type(m), m.training, sorted(m.__dict__)) for name, m in model.named_modules()]
    hooks = [
        (name, list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks))
        for name, m in model.named_modules()
    ]
    gradients = [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]
    return tensors, modules, hooks, gradients


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", MODELS)
def test_every_entry_point_leaves_every_model_and_its_sample_alone(name, entry):
    model, x = MODELS[name](), torch.rand(2, 3, 8, 8)
    model.train(name in ("counts", "hooked"))
    given = x.clone()
    before, training = state_of(model), model.training
    ENTRIES[entry](model, x)
    after = state_of(model)
    assert torch.equal(x, given)
    assert all(torch.equal(v, after[0][k]) for k, v in before[0].items())
    assert before[1:] == after[1:]
    assert model.training == training


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("hooked", "lists")])
def test_traces_are_those_of_the_plain_network(name):
    """The same masks as of a network with the same weights and nothing around it."""
    model, x = MODELS[name]().eval(), torch.rand(6, 3, 8, 8)
    plain = network().eval()
    inner = [m for m in duplicate(model).modules() if type(m) is nn.Sequential][-1]
    plain.load_state_dict({k: v for k, v in inner.state_dict().items()})
    reads = (x - 0.5) / 0.25 if name == "overwrites" else x
    options = dict(sparsity=0.5, augment=None, progress=False)
    expected = trace(plain, reads, **options)
    found = trace(model, x, **options)
    assert len(found.masks()) == 3
    for a, b in zip(found.masks().values(), expected.masks().values(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x.clone()), expected.model(reads.clone()))
    assert found.fidelity().sample.error == pytest.approx(expected.fidelity().sample.error)


def test_copies_share_parameters_and_own_the_rest():
    model = Counts()
    copied = duplicate(model)
    assert all(a is b for a, b in zip(copied.parameters(), model.parameters(), strict=True))
    assert not any(a is b for a, b in zip(copied.buffers(), model.buffers(), strict=True))
    own = duplicate(model, share=False)
    assert not any(a is b for a, b in zip(own.parameters(), model.parameters(), strict=True))
    frozen = duplicate(model, frozen=True)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert frozen.net[0].weight.data_ptr() == model.net[0].weight.data_ptr()


def test_copies_of_prepared_models_still_split_shared_activations():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            if x.sum() > 1e9:  # torch.fx cannot trace this
                return x
            return self.act(self.b(self.act(self.a(x))))

    model, x = Shared(), torch.randn(3, 4)
    copied = duplicate(prepare(model, x))
    for _ in range(2):
        torch.testing.assert_close(copied(x), model(x))
        assert copied.act.call == 2


@pytest.mark.parametrize("how", PARAMETRIZED)
@pytest.mark.parametrize("twice", [False, True])
def test_computed_weights_are_parameters_of_copies(how, twice):
    model, x = computed(PARAMETRIZED[how]).eval(), torch.rand(2, 3, 8, 8)
    if twice:
        prune.random_unstructured(model[0], "bias", 0.5)
    expected = model(x)
    kinds = [type(m) for m in model]
    copied = duplicate(model)
    assert sorted(copied.state_dict()) == sorted(network().state_dict())
    torch.testing.assert_close(copied(x), expected)
    assert [type(m) for m in copied] == [type(m) for m in network()]
    assert [type(m) for m in model] == kinds
    assert len(find_layers(copied)) == 3


def test_recurrent_weights_of_copies():
    model = weight_norm(nn.LSTM(3, 4), "weight_hh_l0").eval()
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(duplicate(model)(x)[0], model(x)[0])


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5))


def sparse():
    model = network()
    model[5].weight = nn.Parameter(model[5].weight.detach().to_sparse())
    return model


class FullyShardedDataParallel(Whole):
    """By its name the wrapper of torch.distributed.fsdp."""


REFUSED = {
    "lazy": (lazy, "run it once first.*LazyConv2d.weight without a shape at 0"),
    "scripted": (lambda: torch.jit.script(network()), "eager module .* got TorchScript"),
    "meta": (lambda: network().to("meta"), "load its weights first.*Conv2d.weight on the meta device"),
    "quantised": (
        lambda: nn.Sequential(nn.Flatten(), torch.ao.nn.quantized.Linear(192, 5)), "floating point.*Linear at 1"
    ),
    "sparse": (sparse, "dense tensors.*Linear.weight of layout torch.sparse_coo at 5"),
    "sharded": (FullyShardedDataParallel, "gather the shards.*FSDP"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", REFUSED)
def test_models_without_readable_weights_are_refused_in_one_line(name, entry):
    make, message = REFUSED[name]
    model = make()
    before = str(model)
    with pytest.raises(TypeError, match=message) as error:
        ENTRIES[entry](model, torch.rand(2, 3, 8, 8))
    assert "\n" not in str(error.value)
    assert str(model) == before


@pytest.mark.filterwarnings("ignore")
def test_a_forward_pass_that_squeezes_a_batch_of_one():
    class Squeezes(Whole):
        def forward(self, x):
            return self.net(x).squeeze()

    model, x = Squeezes(), torch.rand(1, 3, 8, 8)
    options = dict(sparsity=0.5, augment=None, progress=False)
    found, expected = (trace(m, x, **options) for m in (model, model.net))
    assert found.fidelity() == expected.fidelity()
    maps = x.sum(1)
    scores = (metrics.insertion(m, x, maps, steps=4, progress=False) for m in (model, model.net))
    torch.testing.assert_close(*scores)


class Collector:
    """As timm's feature hooks: an object that a model owns keeps what its layers give."""

    def __init__(self):
        self.kept = {}

    def keep(self, name, module, args, output):
        self.kept[name] = output


class OwnHooks(Whole):
    """Reads outputs of its layers by hooks that it registers itself."""

    def __init__(self):
        super().__init__()
        self.collector, self.head = Collector(), nn.Linear(12, 5)
        self.net[3].register_forward_hook(partial(self.collector.keep, "fc"))
        self.net[4].register_forward_hook(self.double)

    def double(self, module, args, output):
        return 2 * output

    def forward(self, x):
        return self.net(x) + self.head(self.collector.kept["fc"])


def test_hooks_that_are_methods_of_the_model_stay():
    model, x = OwnHooks().eval(), torch.rand(4, 3, 8, 8)
    expected = model(x)
    kept = dict(model.collector.kept)  # with its history, which cannot be copied as it is
    torch.testing.assert_close(duplicate(model)(x), expected)
    rows = trace(model, x, sparsity=0.5, augment=None, progress=False).layers
    assert [row.status for row in rows] == ["pruned"] * 4
    assert len(kept) == 1
    assert model.collector.kept["fc"] is kept["fc"]


def test_tied_weights_stay_tied_in_copies():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    for options in ({}, {"share": False}, {"frozen": True}):
        copied = duplicate(model, **options)
        assert copied[0].weight is copied[1].weight
    assert copy.deepcopy(model)[0].weight is not model[0].weight
