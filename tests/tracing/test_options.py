"""The options of a run: one dataclass, whose fields every function that traces takes as keywords."""

import inspect
from dataclasses import fields

import pytest
import torch
from torch import nn

from spade_xai import TraceOptions, trace, trace_many, tune
from spade_xai.commands.pruning import PruningOptions
from spade_xai.tracing.options import TraceKeywords
from spade_xai.tracing.sample import default_batch_size, read_sample

NAMES = [f.name for f in fields(TraceOptions) if f.name != "function"]


def test_keywords_are_the_fields():
    assert list(TraceKeywords.__annotations__) == NAMES
    assert {f.name for f in fields(PruningOptions)} <= {*NAMES, "quality"}
    defaults = {f.name: f.default for f in fields(TraceOptions)}
    for function, left_out, other in (
        (trace, set(), {}),
        (trace_many, set(), {"method": "sparsegpt"}),
        (tune, {"sparsity"}, {}),
    ):
        shown = inspect.signature(function).parameters
        assert set(NAMES) - set(shown) == left_out
        for name in set(NAMES) - left_out:
            assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert shown[name].default == {**defaults, **other}[name]


def test_unknown_keywords_and_names_of_methods():
    model, x = nn.Linear(4, 3), torch.rand(5, 4)
    for function in (trace, trace_many):
        with pytest.raises(TypeError, match=rf"{function.__name__}\(\) got an unexpected keyword"):
            function(model, x, ratio=0.5)
    with pytest.raises(TypeError, match=r"tune\(\) got an unexpected keyword argument 'sparsity'"):
        tune(model, [x], lambda m, i: 1.0, sparsity=0.5)
    options = {"augment": None, "sparsity": 0.5, "progress": False}
    for name, method in (
        ("SPADE", "obc"),
        ("fastspade", "sparsegpt"),
        ("Batched FastSPADE", "sparsegpt"),
    ):
        assert trace(model, x, method=name, **options).settings["method"] == method


def test_the_default_batch_is_smaller_for_large_inputs_on_a_cpu():
    def batch_of(x, **options):
        return read_sample(TraceOptions(augment=None, **options), x, torch.device("cpu")).batch_size

    assert batch_of(torch.zeros(1, 3, 32, 32)) == 64
    assert batch_of(torch.zeros(1, 3, 224, 224)) == 16
    assert batch_of({"a": torch.zeros(2, 1_000_000), "b": torch.zeros(2, 250_000)}) == 2
    assert batch_of(torch.zeros(1, 3, 224, 224), batch_size=5) == 5
    assert default_batch_size(torch.zeros(1, 3, 224, 224), torch.device("cuda")) == 64
