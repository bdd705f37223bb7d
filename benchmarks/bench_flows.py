"""Whole flows of the published programs with our classes and with theirs, on the same images, in the same run.

Needs --published PATH, a checkout of the published code (SparseGPT, Optimal Brain Compression or SPADE) or a folder of
several.
"""

import copy
import fnmatch
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import flows
from benchmarks.networks import language_model, network
from benchmarks.published import Published, load_published, running
from benchmarks.suite import Reference
from spade_ext import compat

SPARSITY = 0.9
BATCH = 32  # images in one forward pass


@dataclass(frozen=True)
class Flow:
    """A published program on a network.

    Attributes:
        program: A function of benchmarks.flows.
        peer: Whose program it is.
        what: It does, in a few words.
        kinds: The classes that it uses, by their names in published.CLASSES.
        model: A network of torchvision, by name.
        augmentations: Images per sample.
        samples: Samples that are pruned together.
        most_columns: Layers of more inputs per output stay dense: the published exact class holds all its traces in
            memory, 4 R (D + 1) D bytes per layer.
        layers: A glob of the layers to prune.
        of_spade: Whether only the SPADE code's own classes do: those of SparseGPT and of Optimal Brain Compression
            take no convolutions, or have no kernel_size.
    """

    program: str
    peer: str
    what: str
    kinds: tuple[str, ...]
    model: str
    augmentations: int = 64
    samples: int = 1
    most_columns: int = 5000
    layers: str = "*"
    of_spade: bool = False


FLOWS = {
    "sparsegpt-opt": Flow(
        "sparsegpt_language_model", "SparseGPT", "opt.py, two blocks of OPT-125M, 50 %",
        ("sparsegpt",), "opt", augmentations=16,
    ),
    "fastspade-resnet50-64": Flow(
        "spade_fast", "SPADE", "the notebook's FastSPADE, ResNet50, 90 %",
        ("sparsegpt",), "resnet50", of_spade=True,
    ),
    "batched-resnet50-64": Flow(
        "spade_batched", "SPADE", "the notebook's batched FastSPADE, ResNet50, 90 %",
        ("batched",), "resnet50", samples=4, most_columns=600,
    ),
    "exact-mobilenet_v2": Flow(
        "spade_exact", "SPADE", "the notebook's exact SPADE, MobileNetV2, 90 %",
        ("trueobs",), "mobilenet_v2", most_columns=150, of_spade=True,
    ),
    "database-mobilenet_v2": Flow(
        "obc_database", "Optimal Brain Compression", "the database, unstructured, MobileNetV2, 50, 75 and 90 %",
        ("trueobs",), "mobilenet_v2", most_columns=200,
    ),
}  # fmt: skip
NAMES = {"trueobs": "TrueOBS", "sparsegpt": "SparseGPT", "batched": "SparseGPTSuperFast"}
OURS = {name: getattr(compat, name) for name in NAMES.values()}


@functools.cache
def model_of(name: str, check: bool) -> nn.Module:
    """The network of a flow; a small one to check with. "opt" is two blocks of OPT-125M's size."""
    if name == "opt":
        return language_model(16, 2, 128) if check else language_model(768, 12, 128)
    if not check:
        return network(name)
    torch.manual_seed(0)
    small = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5),
    )  # fmt: skip
    return small.eval()


def images(flow: Flow, check: bool) -> list[list[torch.Tensor]]:
    """The batches of each sample."""
    generator = torch.Generator().manual_seed(0)
    size, count = (16, 8) if check else (224, flow.augmentations)
    return [
        list(torch.randn(count, 3, size, size, generator=generator).split(BATCH))
        for _ in range(flow.samples)
    ]


def fitting(flow: Flow, model: nn.Module) -> list[str]:
    """Names of the layers that a flow prunes."""
    return [
        name
        for name, layer in flows.prunable(model).items()
        if fnmatch.fnmatchcase(name, flow.layers) and layer.weight[0].numel() <= flow.most_columns
    ]


def size_of(flow: Flow, model: nn.Module) -> str:
    """What a flow is given, and how many layers it prunes."""
    if flow.program == "sparsegpt_language_model":
        count = len(flows.prunable(model.model.decoder.layers))
        return f"{flow.augmentations} sequences of 128 tokens, {count} layers"
    each = f"{flow.samples} x {flow.augmentations}" if flow.samples > 1 else flow.augmentations
    count, every = len(fitting(flow, model)), len(flows.prunable(model))
    chosen = (
        f"all {every} layers"
        if count == every
        else f"{count} of {every} layers, D <= {flow.most_columns}"
    )
    return f"{each} images, {chosen}"


def run(flow: Flow, classes: flows.Classes, check: bool) -> list[dict[str, torch.Tensor]]:
    """The pruned weights that a flow leaves, a state dict per sample or sparsity."""
    model = model_of(flow.model, check)
    if flow.program == "sparsegpt_language_model":
        own = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(0)
        tokens = [
            torch.randint(200, (1, 128), generator=generator) for _ in range(flow.augmentations)
        ]
        blocks = own.model.decoder.layers
        flows.sparsegpt_language_model(classes, own, blocks, tokens, 0.5, blocksize=128)
        return [blocks.state_dict()]
    fits = fitting(flow, model)
    ratios = dict.fromkeys(fits, SPARSITY)
    samples = images(flow, check)
    if flow.program == "obc_database":
        ratios_of_database = [0.5, 0.75, SPARSITY]
        states = flows.obc_database(classes, model, samples[0], ratios_of_database, names=fits)
        return [states[ratio] for ratio in ratios_of_database]
    if flow.program == "spade_batched":
        return [m.state_dict() for m in flows.spade_batched(classes, model, samples, ratios)]
    return [getattr(flows, flow.program)(classes, model, samples[0], ratios).state_dict()]


def published_classes(path: Path) -> dict[str, Any]:
    """The published classes under the names that the flows use; a log goes nowhere."""
    published = load_published(path)

    def maker(kind: str) -> Any:
        def make(layer: nn.Module, *arguments: object) -> Any:
            return published.make(kind, layer, *(arguments if kind == "batched" else ()))

        return make

    return {NAMES[kind]: maker(kind) for kind in published.classes}


def is_of_spade(published: Published, kind: str) -> bool:
    """Whether a published class is that of the SPADE code."""
    text = (published.path / published.files[kind]).read_text()
    return "nn.Unfold" in text and (kind != "trueobs" or "self.kernel_size" in text)


def checkout_of(flow: Flow, path: str) -> Path | None:
    """Where a flow's own classes are: in a checkout, or in a folder of several. None if nowhere.

    A flow of SPADE takes SPADE's classes, and any other the original ones where they are there.
    """
    others = []
    for folder in [Path(path), *sorted(f for f in Path(path).iterdir() if f.is_dir())]:
        try:
            published = load_published(folder)
        except ValueError:
            continue
        if set(flow.kinds) <= set(published.classes):
            of_spade = all(is_of_spade(published, kind) for kind in flow.kinds)
            if of_spade == flow.of_spade:
                return folder
            others.append(folder)
    return others[0] if others and not flow.of_spade else None


def share_of_equal_masks(
    a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]
) -> float:
    """Share of all weights that both keep or both prune."""
    equal = [
        ((x[n] == 0) == (y[n] == 0)) for x, y in zip(a, b, strict=True) for n in x if x[n].ndim > 1
    ]
    return float(sum(int(e.sum()) for e in equal) / sum(e.numel() for e in equal))


@pytest.mark.full
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.benchmark(group="published flows")
def test_flow(benchmark, measure, suite, name):
    if suite.published is None or suite.device != "cpu":
        pytest.skip("needs --published PATH, on the CPU")
    flow = FLOWS[name]
    if suite.flow_size is not None:
        flow = replace(
            flow,
            augmentations=min(flow.augmentations, suite.flow_size[0]),
            most_columns=min(flow.most_columns, suite.flow_size[1]),
        )
    path = checkout_of(flow, suite.published)
    if path is None:
        pytest.skip(f"no class for {', '.join(flow.kinds)} that the flow can use")
    theirs = published_classes(path)
    results: dict[str, Any] = {}

    def kept(whose: str, classes: flows.Classes) -> None:
        results[whose] = run(flow, classes, suite.check)

    with running():
        published = Reference("published code", lambda: kept("published", theirs))
        about = {
            "peer": flow.peer,
            "what": flow.what,
            "size": size_of(flow, model_of(flow.model, suite.check)),
        }
        measure(lambda: kept("ours", OURS), once=True, reference=published, flow=name, **about)
    same = share_of_equal_masks(results["published"], results["ours"])
    assert same > 0.98
    benchmark.extra_info["same_mask_of_flow"] = same
