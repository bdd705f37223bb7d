"""SPADE: prune a model for one sample, so that what is left is the trace of the sample through the network.

Algorithm 1 of the paper: augment the sample, run the dense model on the augmentations, and replace each layer's
weights by W' = argmin ||W' X - W X||^2 under a sparsity constraint, X being the layer's inputs.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.inputs import check_count
from spade_xai.progress import StageCallback, Stages
from spade_xai.tracing.augment import Augmentation
from spade_xai.tracing.memory import parse_memory
from spade_xai.tracing.options import Options
from spade_xai.tracing.result import Trace
from spade_xai.tracing.run import Run
from spade_xai.tracing.schedule import Sparsity, linear


def trace(
    model: nn.Module,
    sample: Any,
    *,
    method: str = "obc",
    sparsity: Sparsity | None = None,
    augment: str | Augmentation | None = "auto",
    augmentations: int = 1024,
    layers: str | Iterable[str] | None = None,
    depthwise: bool = False,
    sequential: bool = False,
    damp: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | StageCallback | None = True,
    max_memory: int | str | None = None,
    forward_precision: str = "float32",
) -> Trace:
    """Prune a model for one sample.

    Args:
        model: Any module whose output is logits or carries them as `.logits`. It is run in eval mode through a copy of
            its modules that shares its parameters: nothing of it changes, whatever happens.
        sample: A batch of one as the model takes it: a tensor [1, ...], a tuple of positional or a dict of
            keyword arguments. With more than one row the augmentations take turns over the rows. Not modified.
        method: "obc" (SPADE) or "sparsegpt" (FastSPADE).
        sparsity: A ratio in [0, 1], a schedule of spade_xai.schedule, a dict of patterns and ratios, or the path of a
            JSON or TOML file with them. None: schedule.linear(0.99).
        augment: A recipe's name ("resnet", "convnext"), a callable that takes a batch of copies of the sample and
            returns as many random variants, or None: the sample's rows as they are. "auto": "resnet", for images.
        augmentations: How many variants.
        layers: Dotted globs or `re:` patterns of the layers to prune; None for all.
        depthwise: Prune depthwise convolutions too.
        sequential: Prune layer after layer, each for the inputs that the sparse layers before it give (appendix
            G.1), instead of all for the dense model's inputs. One partial pass over the augmentations a layer.
        damp: Damping relative to the mean diagonal of a layer's Hessian.
        batch_size: Augmentations in one pass of the model. Results do not depend on it beyond rounding.
        seed: Of the augmentations. The global random states are restored.
        device: Where to run a copy of the model; None: where the model is.
        progress: True for bars, or callback(stage, done, total) for the stages "forward", "hessian" and "prune".
        max_memory: Bytes, or text such as "2GB", that Hessians and pruning may take; more layers are then
            pruned in groups, with a pass over the augmentations each. None: half of the available memory.
        forward_precision: Of the dense model's passes: "float32" (the model's own dtype; on CUDA torch's
            flags decide whether convolutions run in TF32, by default they do), "tf32" on CUDA, or "bfloat16" by
            autocast; Hessians are sums of the inputs that come of it.

    Returns:
        Trace.

    Raises:
        ValueError, TypeError: An argument is not as above; a layer's inputs are not finite.

    Warns:
        DampingWarning: Layers needed more damping than asked for, or failed and were left dense.

    Source: Moakhar, Iofinova, Frantar, Alistarh, "SPADE" (ICML 2024), Algorithm 1.
    """
    options = Options(
        "trace", method, _default(sparsity), augment, augmentations, layers, depthwise, damp, batch_size,
        seed, parse_memory("trace", max_memory), forward_precision,
    )  # fmt: skip
    (result,) = _run(model, [sample], options, sequential, device, progress)
    return result


def trace_many(
    model: nn.Module,
    samples: Iterable[Any],
    *,
    group: int = 25,
    method: str = "sparsegpt",
    sparsity: Sparsity | None = None,
    augment: str | Augmentation | None = "auto",
    augmentations: int = 1024,
    layers: str | Iterable[str] | None = None,
    depthwise: bool = False,
    damp: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | StageCallback | None = True,
    max_memory: int | str | None = None,
    forward_precision: str = "float32",
) -> Iterator[Trace]:
    """Prune a model for each of many samples, with SparseGPT over `group` samples at once (Batched FastSPADE).

    Traces hold masks and kept weights only; a trace's model is made when it is asked for. Each equals what trace
    gives for the sample.

    Args:
        model: As in trace.
        samples: Each as in trace; a tensor [N, ...] is N samples. Read a group at a time.
        group: Samples whose Hessians are held and pruned together, fewer if max_memory asks for it.
        method: As in trace; "obc" takes the samples one by one.
        sparsity: As in trace.
        augment: As in trace.
        augmentations: As in trace, of each sample.
        layers: As in trace.
        depthwise: As in trace.
        damp: As in trace.
        batch_size: As in trace.
        seed: As in trace, the same for every sample.
        device: As in trace.
        progress: As in trace, over one group.
        max_memory: As in trace.
        forward_precision: As in trace.

    Yields:
        Trace of each sample, in order.
    """
    options = Options(
        "trace_many", method, _default(sparsity), augment, augmentations, layers, depthwise, damp,
        batch_size, seed, parse_memory("trace_many", max_memory),
        forward_precision,
    )  # fmt: skip
    check_count("trace_many", "group", group)
    if not isinstance(samples, Iterable):
        raise TypeError(
            f"trace_many: samples must be a tensor or an iterable, got {type(samples).__name__}"
        )
    one_by_one = samples.split(1) if isinstance(samples, Tensor) else samples
    return _groups(model, iter(one_by_one), group, options, device, progress)


def _groups(
    model: nn.Module,
    samples: Iterator[Any],
    group: int,
    options: Options,
    device: torch.device | str | None,
    progress: bool | StageCallback | None,
) -> Iterator[Trace]:
    while batch := list(itertools.islice(samples, group if options.method == "sparsegpt" else 1)):
        yield from _run(model, batch, options, False, device, progress)


def _default(sparsity: Sparsity | None) -> Sparsity:
    return linear(0.99) if sparsity is None else sparsity


def _run(
    model: nn.Module,
    samples: Sequence[Any],
    options: Options,
    sequential: bool,
    device: torch.device | str | None,
    progress: bool | StageCallback | None,
) -> list[Trace]:
    with Stages(progress) as stages, torch.inference_mode(False), torch.no_grad():
        return Run(model, samples, options, device, stages).prune(sequential)
