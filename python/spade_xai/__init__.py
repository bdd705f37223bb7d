"""SPADE: sample-specific pruning for interpretation.

Names are imported from their modules when they are first used, so that `import spade_xai` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spade_xai.attribution.attribute import METHODS, attribute, pixel_map
    from spade_xai.exceptions import SpadeWarning, UnfaithfulTraceWarning
    from spade_xai.features.visualize import visualize
    from spade_xai.measures import baselines, metrics
    from spade_xai.models.load import load_model
    from spade_xai.models.prepare import prepare
    from spade_xai.reports.evaluate import evaluate
    from spade_xai.reports.explain import explain
    from spade_xai.reports.plot import plot
    from spade_xai.tracing import schedule
    from spade_xai.tracing.augment import ImageAugment, PerImage
    from spade_xai.tracing.estimate import estimate
    from spade_xai.tracing.options import TraceOptions
    from spade_xai.tracing.result import Trace, load_trace
    from spade_xai.tracing.text_augment import TextAugment
    from spade_xai.tracing.trace import trace, trace_many
    from spade_xai.tuning.tune import Tuned, tune

__version__ = "0.1.0"

_WHERE = {
    "METHODS": "attribution.attribute",
    "ImageAugment": "tracing.augment",
    "PerImage": "tracing.augment",
    "SpadeWarning": "exceptions",
    "TextAugment": "tracing.text_augment",
    "Trace": "tracing.result",
    "TraceOptions": "tracing.options",
    "Tuned": "tuning.tune",
    "UnfaithfulTraceWarning": "exceptions",
    "attribute": "attribution.attribute",
    "baselines": "measures.baselines",
    "estimate": "tracing.estimate",
    "evaluate": "reports.evaluate",
    "explain": "reports.explain",
    "load_model": "models.load",
    "load_trace": "tracing.result",
    "metrics": "measures.metrics",
    "pixel_map": "attribution.attribute",
    "plot": "reports.plot",
    "prepare": "models.prepare",
    "schedule": "tracing.schedule",
    "trace": "tracing.trace",
    "trace_many": "tracing.trace",
    "tune": "tuning.tune",
    "visualize": "features.visualize",
}

_MODULES = ("baselines", "metrics", "schedule")  # public names that are modules

__all__ = [
    "METHODS",
    "ImageAugment",
    "PerImage",
    "SpadeWarning",
    "TextAugment",
    "Trace",
    "TraceOptions",
    "Tuned",
    "UnfaithfulTraceWarning",
    "attribute",
    "baselines",
    "estimate",
    "evaluate",
    "explain",
    "load_model",
    "load_trace",
    "metrics",
    "pixel_map",
    "plot",
    "prepare",
    "schedule",
    "trace",
    "trace_many",
    "tune",
    "visualize",
]


def __getattr__(name: str) -> Any:
    """Import what was asked for: a public name, or a package inside."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = import_module(f"{__name__}.{_WHERE.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":  # a library that is missing
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = found if name in _MODULES or name not in _WHERE else getattr(found, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
