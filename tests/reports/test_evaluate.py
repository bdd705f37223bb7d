"""Evaluation against the same figures computed one by one; explanations against trace and attribute."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from spade_xai import attribute, metrics, pixel_map, trace
from spade_xai.reports.answers import class_name, share
from spade_xai.reports.controls import controls_of, partners
from spade_xai.reports.evaluate import AVERAGE, evaluate
from spade_xai.reports.explain import explain
from spade_xai.trojans.trojan import predictions

OPTIONS = {"sparsity": 0.5, "augmentations": 16, "batch_size": 8, "progress": False}
METHODS = ["saliency", "lrp"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(150, 4)
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def masks():
    out = torch.zeros(3, 16, 16, dtype=torch.bool)
    for k in range(3):
        out[k, 2 + k : 9, 3:9] = True
    return out


@pytest.fixture(scope="module")
def found(model, images, masks):
    return evaluate(
        model, (images, masks), images, methods=METHODS, controls=("FastSPADE",), **OPTIONS
    )


def test_scores_are_those_of_maps_made_one_by_one(found, model, images, masks):
    labels = predictions(model, images)
    for name, method in (("SPADE", "obc"), ("FastSPADE", "sparsegpt")):
        traces = [trace(model, x, method=method, **OPTIONS) for x in images.split(1)]
        for saliency in METHODS:
            for k, own in enumerate(traces):
                one = slice(k, k + 1)
                # of a planted image the trace of a clean one, of a clean image that of its partner
                others = traces[controls_of(labels.tolist(), labels.tolist())[k]]
                partner = traces[partners(labels.tolist()).index(k)]
                wanted = {
                    name: (own, ["auroc", "pointing_game", "insertion", "deletion"]),
                    "FastSPADE, other image": (others, ["auroc", "pointing_game"]),
                    "FastSPADE, other image ": (partner, ["insertion", "deletion"]),
                }
                for column, (sparse, names) in wanted.items():
                    if name == "SPADE" and column != name:
                        continue
                    a = attribute(sparse.model, images[one], labels[one], saliency)
                    m = pixel_map(a, saliency)
                    scores = {
                        "auroc": metrics.auroc(m, masks[one]),
                        "pointing_game": metrics.pointing_game(m, masks[one]),
                        "insertion": metrics.insertion(model, images[one], m, labels[one]),
                        "deletion": metrics.deletion(model, images[one], m, labels[one]),
                    }
                    for metric in names:
                        got = found.values(metric, saliency, column.strip())[k]
                        assert float(got) == pytest.approx(float(scores[metric]), abs=1e-6)


def test_summaries(found):
    columns = ["dense", "SPADE", "FastSPADE", "FastSPADE, other image", "edges", "random"]
    assert list(found.scores) == ["auroc", "pointing_game", "insertion", "deletion"]
    assert found.columns("auroc") == columns
    assert found.methods("auroc") == [AVERAGE, *METHODS]
    both = [found.values("auroc", m, "SPADE") for m in METHODS]
    average = found.values("auroc", AVERAGE, "SPADE")
    torch.testing.assert_close(average, (both[0] + both[1]) / 2)
    dense = found.values("auroc", AVERAGE, "dense")
    gain = found.gain("auroc", AVERAGE, "SPADE")
    assert gain.mean == pytest.approx(float((average - dense).mean()))
    assert gain.standard_error == pytest.approx(float((average - dense).std()) / math.sqrt(3))
    assert torch.equal(
        found.values("auroc", "lrp", "edges"), found.values("auroc", "saliency", "edges")
    )
    rows = found.rows()
    assert len(rows) == 4 * 3 * len(columns)
    assert all(row["n"] == 3 for row in rows)
    json.dumps(rows)
    assert [len(f) for f in found.fidelity.values()] == [6, 6]
    assert found.traces == 6
    assert {"maps", "metrics", "fidelity", "SPADE: prune", "FastSPADE: hessian"} <= set(
        found.seconds
    )


def test_faithful_traces_are_counted_and_scored_alone(found):
    assert found.faithful["auroc"] == {
        tracer: [f.faithful for f in fidelity[:3]] for tracer, fidelity in found.fidelity.items()
    }
    changed = replace(found, faithful={"auroc": {"SPADE": [True, False, True]}})
    rows = {row["method"]: row for row in changed.rows_of_faithful()}
    values = changed.values("auroc", "saliency", "SPADE")[[0, 2]]
    assert rows["saliency"]["n"] == 2 and set(rows) == {AVERAGE, *METHODS}
    assert rows["saliency"]["mean"] == pytest.approx(float(values.mean()))
    none = replace(found, faithful={"auroc": {"SPADE": [False] * 3}})
    assert none.rows_of_faithful() == []


def test_one_image_has_no_control_and_no_standard_error(model, images):
    lines = []
    found = evaluate(
        model, clean=images[:1], methods=["saliency"], tracers=["SPADE"], report=lines.append, **OPTIONS
    )  # fmt: skip
    assert found.columns("insertion") == ["dense", "SPADE", "edges", "random"]
    assert math.isnan(found.mean("insertion", "saliency", "dense").standard_error)
    assert lines == ["dense maps of 1 clean images", "SPADE of 1 clean images"]


def test_errors(model, images):
    with pytest.raises(ValueError, match="evaluate: planted or clean must be given"):
        evaluate(model)
    with pytest.raises(
        ValueError,
        match=r"evaluate: tracer must be one of SPADE, FastSPADE, .*Magnitude, got 'OBC'",
    ):
        evaluate(model, clean=images, tracers=["OBC"])
    with pytest.raises(
        ValueError, match=r"explain: tracer must be one of SPADE, FastSPADE, .*Magnitude, got 'OBC'"
    ):
        explain(model, images, ["a", "b", "c"], tracers=["OBC"])


def test_explanations(model, images):
    found = explain(
        model, images[:2], ["a", "b"], target=2, methods=METHODS, tracers=["FastSPADE"], **OPTIONS
    )
    assert [(e.name, e.target) for e in found] == [("a", 2), ("b", 2)]
    assert [e.prediction for e in found] == predictions(model, images[:2]).tolist()
    sparse = trace(model, images[1:2], method="sparsegpt", **OPTIONS)
    expected = pixel_map(attribute(sparse.model, images[1:2], 2, "lrp"), "lrp")[0]
    assert torch.equal(found[1].maps["lrp"]["FastSPADE"], expected)
    dense = pixel_map(attribute(model, images[1:2], 2, "lrp"), "lrp")[0]
    assert torch.equal(found[1].maps["lrp"]["dense"], dense)
    summary = json.loads(json.dumps(found[1].summary()))
    layers = summary["traces"]["FastSPADE"]["layers"]
    assert [layer["name"] for layer in layers] == ["0", "2", "5"]
    assert summary["traces"]["FastSPADE"]["fidelity"]["sample"]["count"] == 1
    seconds = summary["traces"]["FastSPADE"]["seconds"]
    assert set(seconds) == {
        "augment", "forward", "hessian", "prune", "fidelity", "agreement", "maps", "other"
    }  # fmt: skip


def test_display_of_classes():
    assert class_name(["cat", "dog"], 1) == "dog"
    assert class_name(["cat", "dog"], 2) == class_name(None, 2) == "class 2"
    assert [share(p) for p in (1.0, 0.824, 0.1, 0.0)] == ["1.0", ".82", ".10", "< .01"]
