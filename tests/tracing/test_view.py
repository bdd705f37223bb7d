"""How a trace looks: in lines, in a notebook, in a figure."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from spade_xai import load_trace, trace


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def quick(model, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace(model, x, augmentations=8, progress=False, **options)


def test_repr_has_at_most_six_lines_and_names_what_matters(model):
    result = quick(model, torch.rand(1, 3, 8, 8), sparsity=0.5)
    lines = repr(result).splitlines()
    assert len(lines) <= 6
    assert lines[0].startswith("Trace by obc, 8 augmentations: ")
    assert "50% zeros in 2 layers" in repr(result)
    verdict = replace(result.verdict, faithful=False, reasons=("it answers class 2",), answer=2)
    result.verdict = verdict
    layers = [*result.layers, replace(result.layers[0], status="unsupported", reason="a <b>")]
    result.layers = layers
    assert len(repr(result).splitlines()) <= 6
    assert "NOT FAITHFUL" in repr(result) and "1 unsupported" in repr(result)
    page = result._repr_html_()
    assert "unsupported: a &lt;b&gt;" in page and page.count("<tr>") == 4


def test_plot_of_an_image_shows_maps_and_sparsities(model, tmp_path):
    result = quick(model, torch.rand(1, 3, 8, 8), sparsity=0.5)
    figure = result.plot("input_x_gradient")
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [
        "sample", "input_x_gradient, dense", "input_x_gradient, trace", "trace - dense",
    ]  # fmt: skip
    drawn = figure.axes[-1].get_lines()[0].get_ydata()
    assert list(drawn) == [layer.sparsity_got for layer in result.layers]
    result.save(tmp_path / "t.safetensors")
    again = load_trace(tmp_path / "t.safetensors", model)
    assert len(again.plot().axes) == 1 and repr(again).startswith("Trace by obc")


def test_plot_of_another_sample_shows_sparsities():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    result = quick(model, torch.rand(8, 6), sparsity=0.5, augment=None)
    assert len(result.plot().axes) == 1
