"""Fuzz of attribute: random models, methods, options, targets and dtypes against the float64 run of the same method.

SPADE_FUZZ_CALLS is how many calls are made (60 by default), SPADE_FUZZ_SEED where to start (0): the same seed makes
the same calls.
"""

import copy
import random
import warnings
from collections import Counter

import torch
from random_models import CALLS, KINDS, SEED, Unchanged, random_model

from spade_xai import METHODS, attribute
from spade_xai.exceptions import DegenerateMapWarning, PlainGradientWarning

MAPS = ("grad_cam", "guided_grad_cam")
IN_FLOAT32 = ("deep_lift", "lrp")  # whatever the model's dtype
TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-9, torch.bfloat16: 1e-2}


def options_of(draw, method, x):
    """Options of a method, drawn for inputs x."""
    baseline = draw.choice([0.0, 0.5, torch.randn(x.shape[1:]).to(x.dtype)])
    window = draw.randint(1, 3)
    features = torch.randint(0, 4, (1, *x.shape[1:]))
    features.view(-1)[0] = 0  # captum warns where the first segment is missing
    drawn = {
        "integrated_gradients": {"baseline": baseline, "steps": draw.randint(1, 12)},
        "gradient_shap": {
            "baseline": draw.choice([0.0, 0.5]),
            "samples": draw.randint(1, 8),
            "noise": draw.choice([0.0, 0.1]),
        },
        "smooth_grad": {
            "of": draw.choice(["saliency", "input_x_gradient", "lrp", "deep_lift"]),
            "samples": draw.randint(1, 8),
            "noise": draw.choice([0.0, 0.2]),
        },
        "deep_lift": {"baseline": baseline},
        "lrp": {
            "rule": draw.choice(["alpha_beta", "epsilon"]),
            "epsilon": draw.choice([1e-6, 1e-3, 0.1]),
            "bias": draw.random() < 0.5,
        },
        "lime": {
            "samples": draw.randint(8, 24),
            "alpha": draw.choice([0.1, 1.0]),
            "features": draw.choice([None, features]),
        },
        "occlusion": {"window": window, "stride": draw.randint(1, window)},
    }
    return drawn.get(method, {})


def target_of(draw, rows, classes):
    """A class, one per input, the prediction, or a function of the outputs."""
    chosen = [draw.randrange(classes) for _ in range(rows)]
    return draw.choice(
        [None, chosen[0], chosen, torch.tensor(chosen), lambda out: out[:, 0] - 0.5 * out[:, -1]]
    )


def one(draw, method):
    kind = "image" if method in MAPS else draw.choice(KINDS)
    model, shape = random_model(draw, kind)
    dtype = draw.choice([torch.float32, torch.float32, torch.float64])
    if method in IN_FLOAT32:
        dtype = draw.choice([dtype, torch.bfloat16])
    model = model.to(dtype).train(draw.random() < 0.3)
    x = torch.randn(draw.randint(1, 4), *shape).to(dtype)
    classes = model[-1].out_features
    target, options = target_of(draw, len(x), classes), options_of(draw, method, x)
    if kind == "linear":
        options = {k: v for k, v in options.items() if k not in ("window", "stride")}
    if callable(target) and "lrp" in (method, options.get("of")):
        target = None
    wide = copy.deepcopy(model).double()
    if target is None:  # classes that are equal but for rounding must not decide
        with torch.no_grad():
            target = wide.eval()(x.double()).argmax(1)
    common = {"seed": draw.randrange(1000), "progress": False}
    same = Unchanged(model, x)
    got = attribute(model, x, target, method, batch_size=draw.randint(1, 16), **common, **options)
    same.check()
    assert got.shape == x.shape and got.dtype == dtype and got.isfinite().all()
    options = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in options.items()
    }
    expected = attribute(wide, x.double(), target, method, **common, **options)
    tolerance, most = TOLERANCE[dtype], float(expected.abs().max())
    if method in (
        "lime",
        "occlusion",
    ):  # captum computes these in float32, from differences of scores
        tolerance, most = max(tolerance, 2e-3), most + 1e-3
    missed = float((got.double() - expected).abs().max())
    assert missed <= tolerance * most + 1e-9, (method, options, missed, most)
    return method


def test_calls_agree_with_float64():
    seen = Counter()
    for number in range(SEED, SEED + CALLS):
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for told in (PlainGradientWarning, DegenerateMapWarning):
                warnings.simplefilter("ignore", told)
            try:
                seen[one(random.Random(number), METHODS[number % len(METHODS)])] += 1
            except Exception as error:
                raise AssertionError(f"call {number}: {error}") from error
    print(dict(seen))
