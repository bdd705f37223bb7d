"""SPADE: sample-specific pruning for interpretation."""

from spade_xai import baselines, metrics, schedule
from spade_xai.augment import ImageAugment
from spade_xai.prepare import prepare
from spade_xai.saliency import METHODS, attribute, pixel_map
from spade_xai.text_augment import TextAugment
from spade_xai.trace import Trace, load_trace, trace, trace_many
from spade_xai.tune import Tuned, tune

__all__ = [
    "METHODS",
    "ImageAugment",
    "TextAugment",
    "Trace",
    "Tuned",
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
