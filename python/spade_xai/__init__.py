"""SPADE: sample-specific pruning for interpretation."""

from spade_xai import baselines, metrics
from spade_xai.prepare import prepare
from spade_xai.saliency import METHODS, attribute, pixel_map

__all__ = ["METHODS", "attribute", "baselines", "metrics", "pixel_map", "prepare"]
