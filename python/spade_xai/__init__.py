"""SPADE: sample-specific pruning for interpretation."""

from spade_xai.attribution.attribute import METHODS, attribute, pixel_map
from spade_xai.exceptions import SpadeWarning, UnfaithfulTraceWarning
from spade_xai.measures import baselines, metrics
from spade_xai.models.prepare import prepare
from spade_xai.tracing import schedule
from spade_xai.tracing.augment import ImageAugment, PerImage
from spade_xai.tracing.options import TraceOptions
from spade_xai.tracing.result import Trace, load_trace
from spade_xai.tracing.text_augment import TextAugment
from spade_xai.tracing.trace import trace, trace_many
from spade_xai.tuning.tune import Tuned, tune

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
    "load_trace",
    "metrics",
    "pixel_map",
    "prepare",
    "schedule",
    "trace",
    "trace_many",
    "tune",
]
