"""The options of a run, once: trace, trace_many, tune, explain, evaluate and the commands share them."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypedDict, TypeVar

import torch

from spade_ext.checks import MOST_DAMP, check_range, check_seed
from spade_xai.choices import misnamed
from spade_xai.models.inputs import check_count
from spade_xai.models.precision import PRECISIONS
from spade_xai.progress import Progress
from spade_xai.tracing.augment import Augmentation
from spade_xai.tracing.memory import parse_memory
from spade_xai.tracing.pruning.method import PruningMethod
from spade_xai.tracing.pruning.registry import method_of
from spade_xai.tracing.schedule import FAITHFUL, Sparsity

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """How samples are traced; every function that traces takes these as keywords.

    Attributes:
        method: "obc" (SPADE), "sparsegpt" (FastSPADE), "magnitude" (a control), or the paper's name in any case.
        sparsity: "faithful": as sparse as the trace answers as the dense model does, found for each sample. Otherwise
            a ratio in [0, 1], a schedule of spade_xai.schedule, a dict of patterns and ratios, the path of a JSON
            or TOML file with them, or "paper:NAME", a sparsity that the paper states (`spade_xai.schedule.paper`).
        augment: A recipe's name ("resnet", "convnext"), a callable that takes a batch of copies of the sample and
            returns as many random variants, or None: the sample's rows as they are. "auto": "resnet", for images.
        augmentations: How many variants of each sample.
        layers: Dotted globs or `re:` patterns of the layers to prune; None for all.
        depthwise: Prune depthwise convolutions too.
        damp: Damping relative to the mean diagonal of a layer's Hessian.
        batch_size: Augmentations in one pass of the model. Results do not depend on it beyond rounding. None: 64, and
            on a CPU fewer of large inputs, for instance 16 images of 224 x 224 pixels.
        seed: The seed of the augmentations, the same for every sample. The global random states are restored.
        device: Where to run a copy of the model and to prune it; None: where the model is.
        progress: True for bars, or callback(stage, done, total) for the stages "forward", "hessian", "prune" and
            "fidelity".
        max_memory: Bytes, or text such as "2GB", that Hessians and pruning may take; more layers are then
            pruned in groups, with a pass over the augmentations each. None: half of the available memory.
        forward_precision: The precision of the dense model's passes: "float32" (the model's own dtype; on CUDA torch's
            flags decide whether convolutions run in TF32, by default they do), "tf32" on CUDA, or "bfloat16" by
            autocast; Hessians are sums of the inputs that come of it.
        function: Named in errors and warnings.

    Example:
        >>> from spade_xai import TraceOptions
        >>> TraceOptions(method="FastSPADE", augmentations=128).damp
        0.01
    """

    method: str = "obc"
    sparsity: Sparsity = FAITHFUL
    augment: str | Augmentation | None = "auto"
    augmentations: int = 1024
    layers: str | Iterable[str] | None = None
    depthwise: bool = False
    damp: float = 0.01
    batch_size: int | None = None
    seed: int = 0
    device: torch.device | str | None = None
    progress: Progress = True
    max_memory: int | str | None = None
    forward_precision: str = "float32"
    function: str = "trace"

    def __post_init__(self) -> None:
        name = self.function
        method_of(name, self.method)
        check_count(name, "augmentations", self.augmentations)
        if self.batch_size is not None:
            check_count(name, "batch_size", self.batch_size)
        check_range(name, "damp", self.damp, 0.0, MOST_DAMP)
        check_seed(name, self.seed)
        parse_memory(name, self.max_memory)
        if self.forward_precision not in PRECISIONS:
            wrong = misnamed("forward_precision", PRECISIONS, self.forward_precision)
            raise ValueError(f"{name}: {wrong}")
        if self.device is not None:
            check_place(name, self.device)

    @property
    def pruning(self) -> PruningMethod:
        """The method that prunes."""
        return method_of(self.function, self.method)

    @property
    def most_memory(self) -> int | None:
        """Bytes of max_memory."""
        return parse_memory(self.function, self.max_memory)


class TraceKeywords(TypedDict, total=False):
    """The fields of TraceOptions as type checkers read keywords."""

    method: str
    sparsity: Sparsity
    augment: str | Augmentation | None
    augmentations: int
    layers: str | Iterable[str] | None
    depthwise: bool
    damp: float
    batch_size: int | None
    seed: int
    device: torch.device | str | None
    progress: Progress
    max_memory: int | str | None
    forward_precision: str


def takes_trace_options(*left_out: str, **defaults: object) -> Callable[[F], F]:
    """Decorator: the signature of a function with **options names the fields of TraceOptions.

    Args:
        left_out: Fields that the function does not take.
        **defaults: Fields whose defaults differ in this function, and those defaults.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = [f for f in fields(TraceOptions) if f.name not in (*left_out, "function")]
        allowed = {f.name for f in known} | {p.name for p in own}

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for name in given:
                if name not in allowed:
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument {name!r}"
                    )
            return function(*args, **{**defaults, **given})

        options = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(
                    f.name, inspect.Parameter.empty if f.default is MISSING else f.default
                ),
                annotation=f.type,
            )
            for f in known
        ]
        call.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def check_place(function: str, device: torch.device | str) -> torch.device:
    """The device, if the CPU or a CUDA device of this machine."""
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    cuda = place is not None and place.type == "cuda"
    if place is None or not (place.type == "cpu" or (cuda and torch.cuda.is_available())):
        raise ValueError(
            f"{function}: device must be cpu or a CUDA device that PyTorch finds, got {device!r}"
        )
    return place
