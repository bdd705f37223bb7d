"""Sparsity of each layer: rules, patterns, files, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spade_xai import schedule
from spade_xai.models.layers import find_layers
from spade_xai.tracing.schedule import find_last_block, resolve_sparsity

RESNET = [
    "conv1",
    *(f"layer{i}.{j}.conv{k}" for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)),
    "fc",
]
CONVNEXT = [
    "features.0.0",
    *(f"features.{i}.{j}.block.3" for i in (1, 3, 5, 7) for j in (0, 1)),
    "classifier.2",
]
BERT = [f"bert.encoder.layer.{i}.{x}" for i in (0, 1, 2) for x in ("query", "dense")] + [
    "classifier"
]


def test_linear_rises_from_dense_to_the_last_ratio_on_the_published_grid():
    names = [str(i) for i in range(12)]
    exact = schedule.linear(0.99, grid=None)(names)
    assert list(exact.values()) == pytest.approx([0.99 * i / 11 for i in range(12)])
    rounded = schedule.linear(0.99)(names)
    assert list(rounded.values()) == [
        0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 0.9, 0.99,
    ]  # fmt: skip
    assert schedule.linear(0.95)(["only"]) == {"only": 0.95}
    assert (
        schedule.linear(0.85, grid=(0.8, 0.9))(["a", "b"])["b"] == 0.8
    )  # of equally near the lower


@pytest.mark.parametrize(
    ("names", "block", "count"),
    [
        (RESNET, "layer4", 4),
        (CONVNEXT, "features.7", 2),
        (BERT, "bert.encoder.layer.2", 2),
        (["0", "2"], "2", 1),
    ],
)
def test_last_block(names, block, count):
    assert find_last_block(names) == block
    found = schedule.last_block(0.9)(names)
    assert len(found) == count
    assert all(name == block or name.startswith(f"{block}.") for name in found)
    assert set(found.values()) == {0.9}
    assert schedule.last_block(0.5, pattern=names[0])(names) == {names[0]: 0.5}
    with pytest.raises(ValueError, match="pattern must take a layer, got 'head'"):
        schedule.last_block(0.5, pattern="head")(names)


def test_the_last_pattern_counts():
    found = schedule.patterns({"layer4": 0.9, "*.conv2": 0.5, "re:layer4.1.*": 0.2})(RESNET)
    assert found["layer4.0.conv1"] == 0.9
    assert found["layer4.0.conv2"] == found["layer1.0.conv2"] == 0.5
    assert found["layer4.1.conv1"] == found["layer4.1.conv2"] == 0.2
    assert "fc" not in found


@pytest.fixture
def layers():
    return find_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"0": 0.25, "2": 0.5}'),
        ("b.json", '{"sparsity": {"0": 0.25, "2": 0.5}, "score": 1}'),
        ("c.toml", '[sparsity]\n"0" = 0.25\n"2" = 0.5\n'),
    ],
)
def test_files(layers, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    expected = {"0": 0.25, "2": 0.5}
    assert schedule.load(tmp_path / name) == expected
    assert resolve_sparsity("trace", str(tmp_path / name), layers) == expected


def test_every_layer_gets_a_ratio(layers):
    assert resolve_sparsity("trace", 0.5, layers) == {"0": 0.5, "2": 0.5}
    assert resolve_sparsity("trace", {"2": 0.5}, layers) == {"0": 0.0, "2": 0.5}
    assert resolve_sparsity("trace", schedule.linear(), layers) == {"0": 0.0, "2": 0.99}
    assert resolve_sparsity("trace", lambda names: {names[0]: 1}, layers) == {"0": 1.0, "2": 0.0}


@pytest.mark.parametrize(
    ("sparsity", "error", "message"),
    [
        (1.5, ValueError, r"trace: sparsity must be in \[0, 1\], got 1.5"),
        (float("nan"), ValueError, r"sparsity must be in \[0, 1\], got nan"),
        (True, TypeError, "sparsity must be a number, got bool"),
        (torch.tensor(0.5), TypeError, "sparsity must be a number, got Tensor"),
        ({"fc": 0.5}, ValueError, "sparsity must take a layer, 'fc' takes none"),
        ({"2": -0.1}, ValueError, r"'2' must be in \[0, 1\], got -0.1"),
        (lambda names: {"fc": 0.5}, ValueError, "sparsity must name layers of the model, got 'fc'"),
        (lambda names: {"2": 2}, ValueError, r"sparsity of 2 must be in \[0, 1\], got 2"),
    ],
)
def test_refused(layers, sparsity, error, message):
    with pytest.raises(error, match=message):
        resolve_sparsity("trace", sparsity, layers)


@pytest.mark.parametrize("rule", [schedule.uniform, schedule.linear, schedule.last_block])
def test_rules_refuse_what_is_no_ratio(rule):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.01"):
        rule(1.01)


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "s.json"
    with pytest.raises(FileNotFoundError):
        schedule.load(path)
    for text, message in [
        ("{", "must be JSON, or TOML if so named"),
        (json.dumps([0.5]), "must hold a table"),
        ("{}", "must hold a table"),
        ('{"fc": 3}', r"'fc' must be in \[0, 1\], got 3"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            schedule.load(path)


def test_schedules_of_no_layers():
    assert schedule.linear(0.9)([]) == {} and schedule.uniform(0.9)([]) == {}
    with pytest.raises(ValueError, match="last_block: names must hold a layer, got none"):
        schedule.last_block(0.9)([])


def test_last_blocks_and_the_head():
    names = [
        "stem",
        "body.0.a",
        "body.0.b",
        "body.1.a",
        "body.1.b",
        "body.2.a",
        "body.2.b",
        "neck",
        "fc",
    ]
    assert schedule.find_last_block(names) == "body.2"
    for count, first in ((1, 5), (2, 3), (3, 1)):
        assert schedule.last_blocks(count, 0.8)(names) == dict.fromkeys(names[first:], 0.8)
    with pytest.raises(
        ValueError, match="count must be at most the 3 blocks of the network, got 4"
    ):
        schedule.last_blocks(4)(names)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        schedule.last_blocks(0)
    assert list(schedule.last_blocks(2)(["0", "2", "4"])) == ["2", "4"]  # a plain stack of layers


def named(name):
    """A layer of which only the name is read."""
    return SimpleNamespace(name=name)


RESNET50 = [
    "conv1",
    *(
        f"network.layer{i + 1}.{j}.conv{k}"
        for i, blocks in enumerate((3, 4, 6, 3))
        for j in range(blocks)
        for k in (1, 2, 3)
    ),
    "network.fc",
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("human-study", {"layer4.2.conv1": 0.99, "layer3.5.conv3": 0, "fc": 0}),
        ("figure-j11", {"layer3.4.conv1": 0.95, "layer3.3.conv1": 0, "layer4.0.conv2": 0.95}),
        (
            "resnet50-lrp-fast",
            {
                "layer1.1.conv2": 0.8,
                "layer2.2.conv1": 0.99,
                "layer3.5.conv1": 0,
                "layer4.1.conv1": 0.95,
            },
        ),
    ],
)
def test_sparsities_of_the_paper_by_name(name, expected):
    layers = [named(x) for x in RESNET50]
    ratios = resolve_sparsity("trace", f"paper:{name}", layers)
    assert set(ratios) == set(RESNET50)
    assert {k: ratios[f"network.{k}"] for k in expected} == expected
    given = schedule.paper(name)(RESNET50)
    assert ratios == {layer: given.get(layer, 0.0) for layer in RESNET50}


def test_the_papers_rule_by_name_and_unknown_names():
    layers = [named(x) for x in RESNET]
    assert resolve_sparsity("trace", "paper:linear", layers) == schedule.linear()(RESNET)
    with pytest.raises(ValueError, match=r"one of linear, human-study, .*, got 'human'"):
        resolve_sparsity("trace", "paper:human", layers)
    with pytest.raises(ValueError, match="layer4"):  # a network without such layers
        resolve_sparsity("trace", "paper:human-study", [named("conv1"), named("fc")])
