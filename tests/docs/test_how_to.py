"""The code of the how-tos does what they say."""

import importlib
import re
import runpy
import subprocess
import textwrap
from pathlib import Path

import torch
from classifiers import residual_case

from spade_xai.attribution import gradient
from spade_xai.attribution.methods import RECORDS
from spade_xai.models import kinds, layers

module = importlib.import_module("spade_xai.attribution.attribute")
ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"


def blocks(page, language="python"):
    """The code of a page, block by block."""
    text = (HOW_TO / page).read_text()
    return [textwrap.dedent(b) for b in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


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


def test_pruning_operation(tmp_path):
    """What is new compiles: the declaration in the header, the operation, its C++ test. The reference prunes."""
    (declaration,) = blocks("pruning-operation.md", "c")
    operation, _, test = blocks("pruning-operation.md", "cpp")
    header = (ROOT / "csrc" / "include" / "spade" / "spade.h").read_text()
    before, end, after = header.rpartition("#ifdef __cplusplus\n}")
    (tmp_path / "spade").mkdir()
    (tmp_path / "spade" / "spade.h").write_text(f"{before}{declaration}\n{end}{after}")
    folders = tmp_path, ROOT / "csrc", ROOT / "csrc" / "include", ROOT / "tests" / "cpp"
    for code in (operation, test):
        command = [
            "c++",
            "-std=c++17",
            "-Wall",
            "-Wextra",
            "-fopenmp",
            "-Werror",
            "-fsyntax-only",
        ]
        command += [f"-I{folder}" for folder in folders] + ["-x", "c++", "-"]
        subprocess.run(command, input=code, text=True, check=True)
    _, reference, *_ = blocks("pruning-operation.md")
    names = {}
    exec(reference, names)
    pruned = names["wanda_prune"](
        torch.tensor([[3.0, 1.0, 2.0]]), torch.diag(torch.tensor([1.0, 16.0, 1.0])), 0.34
    )
    assert pruned.tolist() == [[3.0, 1.0, 0.0]]
