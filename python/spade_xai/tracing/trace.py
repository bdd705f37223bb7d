"""SPADE: prune a model for one sample, so that what is left is the trace of the sample through the network.

Algorithm 1 of the paper: augment the sample, run the dense model on the augmentations, and replace each layer's
weights by W' = argmin ||W' X - W X||^2 under a sparsity constraint, X being the layer's inputs.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from spade_xai.models.inputs import check_count
from spade_xai.models.modes import outside_inference_mode
from spade_xai.progress import Stages
from spade_xai.tracing.options import TraceKeywords, TraceOptions, takes_trace_options
from spade_xai.tracing.result import Trace
from spade_xai.tracing.run import TracingRun


@takes_trace_options()
def trace(
    model: nn.Module, sample: Any, *, sequential: bool = False, **options: Unpack[TraceKeywords]
) -> Trace:
    """Prune a model for one sample.

    By default the trace is faithful: each layer gets the largest sparsity at which the sparse model still answers as
    the dense one does, on the sample and near it; see `Trace.fidelity`. A trace that is not faithful warns. `Trace.at`
    gives any other sparsity without another elimination.

    Args:
        model: Any module whose output is logits or carries them as `.logits`. It is run in eval mode through a copy of
            its modules that shares its parameters: nothing of it changes, whatever happens.
        sample: A batch of one as the model takes it: a tensor [1, ...], a tuple of positional or a dict of
            keyword arguments. With more than one row the augmentations take turns over the rows. Not modified.
        sequential: Prune layer after layer, each for the inputs that the sparse layers before it give (appendix
            G.1), instead of all for the dense model's inputs. One partial pass over the augmentations per layer.
            Faithful sparsities are those of the run for the dense model's inputs.
        **options: The fields of `TraceOptions`.

    Returns:
        Trace.

    Raises:
        ValueError, TypeError: An argument is not as above; a layer's inputs are not finite.

    Warns:
        DampingWarning: Layers needed more damping than asked for, or failed and were left dense.
        UnfaithfulTraceWarning: The trace does not answer as the dense model does.
        SparsityWarning: A layer got less than the sparsity asked for.

    Source: Moakhar, Iofinova, Frantar, Alistarh, "SPADE" (ICML 2024), Algorithm 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import trace
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> result = trace(model, image, sparsity=0.5, augmentations=64, progress=False)
        >>> float((result.model[1].weight == 0).float().mean())
        0.5
    """
    given = TraceOptions(**options, function="trace")
    (result,) = _traced(model, [sample], given, sequential=sequential, keep=True)
    return result


@takes_trace_options(method="sparsegpt")
def trace_many(
    model: nn.Module, samples: Iterable[Any], *, group: int = 25, **options: Unpack[TraceKeywords]
) -> Iterator[Trace]:
    """Prune a model for each of many samples, with SparseGPT over `group` samples at once (Batched FastSPADE).

    Traces hold masks and kept weights only; a trace's model is made when it is asked for. Each equals what trace
    gives for the sample.

    Args:
        model: As in trace.
        samples: Each as in trace; a tensor [N, ...] is N samples. Read a group at a time.
        group: Samples whose Hessians are held and pruned together, fewer if max_memory asks for it. Methods that
            gain nothing by it, as "obc", take the samples one by one.
        **options: The fields of `TraceOptions`; progress is over one group.

    Yields:
        Trace of each sample, in order.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import trace_many
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> images = torch.rand(3, 3, 4, 4)
        >>> traces = trace_many(model, images, sparsity=0.5, augmentations=64, progress=False)
        >>> [result.layers[0].sparsity_got for result in traces]
        [0.5, 0.5, 0.5]
    """
    given = TraceOptions(**options, function="trace_many")
    check_count("trace_many", "group", group)
    if not isinstance(samples, Iterable):
        raise TypeError(
            f"trace_many: samples must be a tensor or an iterable, got {type(samples).__name__}"
        )
    one_by_one = samples.split(1) if isinstance(samples, Tensor) else samples
    return _groups(model, iter(one_by_one), group, given)


def _groups(
    model: nn.Module, samples: Iterator[Any], group: int, options: TraceOptions
) -> Iterator[Trace]:
    size = group if options.pruning.samples_together else 1
    while batch := list(itertools.islice(samples, size)):
        yield from _traced(model, batch, options)


def _traced(
    model: nn.Module,
    samples: Sequence[Any],
    options: TraceOptions,
    *,
    sequential: bool = False,
    keep: bool = False,
) -> list[Trace]:
    with Stages(options.progress) as stages, outside_inference_mode(), torch.no_grad():
        return TracingRun(model, samples, options, stages).prune(sequential=sequential, keep=keep)
