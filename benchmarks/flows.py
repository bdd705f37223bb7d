"""How the published programs use their classes: the same steps, written anew, for any classes of that interface.

Each flow prunes a model in place, or returns what the published one saves. `classes` maps the names that the programs
import to the classes to use: TrueOBS, SparseGPT, SparseGPTSuperFast.
"""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Classes = Mapping[str, Callable[..., Any]]


def prunable(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions of one group, by name: what the published find_layers returns."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }


@contextmanager
def watching(layers: Mapping[str, nn.Module], seen: Callable[[str, Any, Any], None]):
    """While the block runs, give seen(name, inputs, outputs) what each layer gets and makes."""
    handles = [
        layer.register_forward_hook(
            lambda module, inputs, output, name=name: seen(name, inputs[0].data, output.data)
        )
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Caught(Exception):
    """The inputs of the first block are known."""


def first_inputs(
    model: nn.Module, block: nn.Module, tokens: Iterable[torch.Tensor]
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments that a model's first block gets for each batch of tokens."""
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args, kwargs))
        raise _Caught

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for batch in tokens:
            try:
                model(batch, use_cache=False)
            except _Caught:
                pass
    finally:
        handle.remove()
    return caught


@torch.no_grad()
def sparsegpt_language_model(
    classes: Classes,
    model: nn.Module,
    blocks: Sequence[nn.Module],
    tokens: Sequence[torch.Tensor],
    sparsity: float,
    prunen: int = 0,
    prunem: int = 0,
    blocksize: int = 128,
    quantizer: Callable[[], object] | None = None,
) -> None:
    """opt_sequential, llama_sequential and bloom_sequential of SparseGPT: block after block of a decoder.

    A block's layers see the inputs that the pruned blocks before it have made; its own are pruned together.

    Args:
        classes: Of which SparseGPT is used.
        model: A causal language model of transformers. Modified.
        blocks: Its decoder blocks.
        tokens: Batches of one sequence, [1, T].
        sparsity: Share of each layer's weights.
        prunen: With prunem: n of each m weights go.
        prunem: See prunen.
        blocksize: Columns of a mask block.
        quantizer: What --wbits gives to each object.
    """
    calls = first_inputs(model, blocks[0], tokens)
    for block in blocks:
        layers = prunable(block)
        pruners = {name: classes["SparseGPT"](layer) for name, layer in layers.items()}
        if quantizer is not None:
            for pruner in pruners.values():
                pruner.quantizer = quantizer()
        with watching(layers, lambda name, x, y, p=pruners: p[name].add_batch(x, y)):
            for args, kwargs in calls:
                block(*args, **kwargs)
        for pruner in pruners.values():
            pruner.fasterprune(
                sparsity, prunen=prunen, prunem=prunem, percdamp=0.01, blocksize=blocksize
            )
            pruner.free()
        outputs = [block(*args, **kwargs) for args, kwargs in calls]
        calls = [
            ((y[0] if isinstance(y, tuple) else y, *args[1:]), kwargs)
            for y, (args, kwargs) in zip(outputs, calls, strict=True)
        ]


@torch.no_grad()
def spade_exact(
    classes: Classes,
    model: nn.Module,
    batches: Sequence[torch.Tensor],
    sparsities: Mapping[str, float],
    log_file: str | os.PathLike[str] = os.devnull,
) -> nn.Module:
    """The notebook's exact SPADE: every layer of a copy pruned for the inputs that the dense model gives it.

    Convolutions go in blocks of their kernel's taps, linear layers weight by weight.

    Args:
        classes: Of which TrueOBS is used.
        model: Not modified.
        batches: Augmentations of one image.
        sparsities: Of each layer to prune, by name.
        log_file: As the published class wants one.
    """
    sparse = copy.deepcopy(model).eval()
    dense = {name: layer for name, layer in prunable(model).items() if name in sparsities}
    pruners = {name: classes["TrueOBS"](layer, log_file) for name, layer in dense.items()}
    with watching(dense, lambda name, x, y: pruners[name].add_batch(x, y)):
        for batch in batches:
            model(batch)
    for name, layer in dense.items():
        pruner, wanted = pruners[name], [sparsities[name]]
        if isinstance(layer, nn.Conv2d):
            pruner.prepare_blocked(size=pruner.kernel_size)
            (weight,) = pruner.prune_blocked(wanted)
        else:
            pruner.prepare_unstr()
            (weight,) = pruner.prune_unstr(wanted)
        sparse.get_submodule(name).weight.data = weight.reshape(layer.weight.shape)
        pruner.free()
    return sparse


@torch.no_grad()
def spade_fast(
    classes: Classes,
    model: nn.Module,
    batches: Sequence[torch.Tensor],
    sparsities: Mapping[str, float],
) -> nn.Module:
    """The notebook's FastSPADE: SparseGPT with mask blocks of a kernel's taps; arguments as spade_exact."""
    sparse = copy.deepcopy(model).eval()
    dense = {name: layer for name, layer in prunable(model).items() if name in sparsities}
    pruners = {name: classes["SparseGPT"](sparse.get_submodule(name)) for name in dense}
    with watching(dense, lambda name, x, y: pruners[name].add_batch(x, y)):
        for batch in batches:
            model(batch)
    for name, layer in dense.items():
        taps = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
        pruners[name].fasterprune(sparsities[name], blocksize=taps)
        pruners[name].free()
    return sparse


@torch.no_grad()
def spade_batched(
    classes: Classes,
    model: nn.Module,
    samples: Sequence[Sequence[torch.Tensor]],
    sparsities: Mapping[str, float],
) -> list[nn.Module]:
    """The notebook's batched FastSPADE: one object per layer holds the Hessians of all samples.

    Args:
        classes: Of which SparseGPTSuperFast is used.
        model: Not modified.
        samples: Batches of each sample.
        sparsities: Of each layer to prune, by name.
    """
    sparse = [copy.deepcopy(model).eval() for _ in samples]
    dense = {name: layer for name, layer in prunable(model).items() if name in sparsities}
    make = classes["SparseGPTSuperFast"]
    pruners = {name: make(layer, len(samples)) for name, layer in dense.items()}
    for batches in samples:
        with watching(dense, lambda name, x, y: pruners[name].add_batch(x, y)):
            for batch in batches:
                model(batch)
        for pruner in pruners.values():
            pruner.inc_model_counter()
    for name, layer in dense.items():
        taps = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
        layers = [one.get_submodule(name) for one in sparse]
        pruners[name].fasterprune(sparsities[name], layers, blocksize=taps)
        pruners[name].free()
    return sparse


@torch.no_grad()
def obc_database(
    classes: Classes,
    model: nn.Module,
    batches: Sequence[torch.Tensor],
    sparsities: Sequence[float],
    compress: str = "unstr",
    blocked_size: int = 4,
    names: Sequence[str] | None = None,
) -> dict[float, dict[str, torch.Tensor]]:
    """main_trueobs of Optimal Brain Compression: a state dict per sparsity, all from one elimination per layer.

    Args:
        classes: Of which TrueOBS is used.
        model: Not modified.
        batches: Calibration inputs.
        sparsities: Of the database.
        compress: "unstr", "blocked" or "struct".
        blocked_size: Columns per block.
        names: Layers to prune; None for all.
    """
    states = {s: copy.deepcopy(model.state_dict()) for s in sparsities}
    layers = {n: layer for n, layer in prunable(model).items() if names is None or n in names}
    pruners = {name: classes["TrueOBS"](layer) for name, layer in layers.items()}
    with watching(layers, lambda name, x, y: pruners[name].add_batch(x, y)):
        for batch in batches:
            model(batch)
    for name, pruner in pruners.items():
        layer = layers[name]
        if compress == "unstr":
            pruner.prepare_unstr()
            weights = pruner.prune_unstr(sparsities)
        elif compress == "struct":
            size = (
                layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
            )
            if pruner.columns / size <= 3:
                continue
            weights = pruner.prune_struct(sparsities, size=size)
        elif pruner.columns % blocked_size == 0:
            pruner.prepare_blocked(blocked_size)
            weights = pruner.prune_blocked(sparsities)
        else:
            continue
        for sparsity, weight in zip(sparsities, weights, strict=True):
            states[sparsity][f"{name}.weight"] = weight.reshape(layer.weight.shape)
        pruner.free()
    return states


def same_mask(model: nn.Module, other: nn.Module) -> float:
    """Share of the weights of prunable layers that both keep or both prune."""
    same = count = 0
    for name, layer in prunable(model).items():
        equal = (layer.weight == 0) == (other.get_submodule(name).weight == 0)
        same, count = same + int(equal.sum()), count + equal.numel()
    return same / count
