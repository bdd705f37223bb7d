"""The code of the how-tos does what they say."""

import importlib
import re
import runpy
import textwrap
from pathlib import Path

from classifiers import residual_case

from spade_xai.attribution import gradient
from spade_xai.attribution.methods import RECORDS
from spade_xai.models import kinds, layers

module = importlib.import_module("spade_xai.attribution.attribute")
ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"


def blocks(page):
    """The Python of a page, block by block."""
    text = (HOW_TO / page).read_text()
    return [textwrap.dedent(b) for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def test_saliency_method(monkeypatch):
    function, record, test = blocks("saliency-method.md")
    names = dict(vars(gradient)) | {"attribute": module.attribute}
    exec(function, names)
    (method,) = eval(f"({record})", names)
    monkeypatch.setitem(RECORDS, method.name, method)
    monkeypatch.setattr(module, "METHODS", (*module.METHODS, method.name))
    exec(test, names)
    names["test_contrast_is_the_gradient_of_a_contrast"](residual_case())


def test_layer_kind(monkeypatch):
    layer, signature, test = blocks("layer-kind.md")
    names = dict(vars(kinds))
    exec(layer, names)
    monkeypatch.setattr(layers, "KINDS", (*layers.KINDS, names["Bilinear"]))
    for function, arguments in eval(f"{{{signature}}}", names).items():
        monkeypatch.setitem(kinds.SIGNATURES, function, arguments)
    names = runpy.run_path(str(ROOT / "tests" / "models" / "test_kinds.py"))
    exec(test, names)
    names["test_bilinear_is_a_linear_layer_of_outer_products"]()
