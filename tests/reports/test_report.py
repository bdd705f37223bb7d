"""Pictures and pages: what is drawn, that a page needs nothing else, and that files are whole."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from spade_xai.reports import heatmap
from spade_xai.reports.answers import Answer
from spade_xai.reports.chart import sparsity_chart
from spade_xai.reports.explain import Explanation, in_place
from spade_xai.reports.figure import png
from spade_xai.reports.grid import grid
from spade_xai.reports.page import write_atomically
from spade_xai.reports.report import GrowingReport, html
from spade_xai.tracing.fidelity import Agreement, Fidelity
from spade_xai.tracing.layer_report import LayerReport
from spade_xai.tracing.verdict import Verdict


def layer(name, got, reason=""):
    status = "unsupported" if reason else "pruned"
    return LayerReport(name, 4, 9, 0.5, got, 0.1, 0.01, 0.02, 0.003, status, reason)


def text_of(page):
    """What a reader sees, without pictures."""
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


@pytest.fixture
def explanation():
    generator = torch.Generator().manual_seed(0)
    maps = {
        method: {column: torch.randn(8, 8, generator=generator) for column in ("dense", "SPADE")}
        for method in ("lrp", "saliency")
    }
    maps["saliency"] = {name: values.abs() for name, values in maps["saliency"].items()}
    image = torch.rand(3, 8, 8, generator=generator)
    result = Explanation(name="cat <1>.png", image=image, target=1, prediction=0, maps=maps)
    result.layers["SPADE"] = [layer("conv", 0.25), layer("fc", 0.75)]
    agreement = Agreement(1.0, 0.98765, 0.12345, 1)
    result.fidelity["SPADE"] = Fidelity(agreement, Agreement(0.5, 0.9, 0.4, 64))
    result.answers.update(dense=[Answer(0, 0.62), Answer(1, 0.21)], SPADE=[Answer(0, 0.5)])
    result.seconds.update(dense={"maps": 0.25}, SPADE={"forward": 1.5, "maps": 0.125})
    return result


def test_grid_has_a_row_a_method_and_a_column_a_model(explanation):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    figure = grid(explanation, mask, ["dog", "cat"])
    pictures = [axis for axis in figure.axes if axis.get_images()]
    titles = [axis.get_title() for axis in pictures if axis.get_title()]
    assert titles == ["photograph", "whole network", "SPADE", "SPADE - whole"]
    assert [a.get_ylabel() for a in pictures if a.get_ylabel()] == ["lrp", "saliency"]
    values = heatmap.scaled(explanation.maps["lrp"]["SPADE"])
    drawn = pictures[2].get_images()[0].get_array()
    np.testing.assert_array_equal(drawn, heatmap.overlaid(explanation.image, values, True))
    picture = pictures[0].get_images()[0].get_array()
    np.testing.assert_allclose(picture, explanation.image.permute(1, 2, 0))
    assert all(len(axis.collections) == 1 for axis in pictures)  # the outline of the mask
    assert figure.get_suptitle().startswith("Answers dog .62.")
    plain = grid(explanation)
    assert not any(axis.collections for axis in plain.axes if axis.get_images())
    assert plain._repr_png_().startswith(b"\x89PNG")


def test_maps_are_scaled_by_a_percentile_and_dark_at_zero():
    values = torch.linspace(-1, 1, 400).reshape(20, 20)
    values[0, 0] = 1e6  # one extreme pixel does not darken the others
    found = heatmap.scaled(values)
    assert found[0, 0] == 1 and found.abs().median() > 0.4
    assert torch.equal(heatmap.scaled(torch.zeros(2, 2)), torch.zeros(2, 2))
    sparse = torch.zeros(20, 20)
    sparse[0, 0] = 5.0  # whose percentile is 0
    assert heatmap.scaled(sparse)[0, 0] == 1
    broken = torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0]])
    assert heatmap.scaled(broken).tolist() == [[0.0, pytest.approx(0.5, abs=0.02)], [0.0, 1.0]]
    for signed in (False, True):
        ends = heatmap.painted(torch.tensor([[-1.0, 0.0, 1.0]]), signed).sum(-1)[0]
        assert ends[1] < 100 < ends[2]
    change, limit = heatmap.difference(sparse + 0.1, sparse)
    assert limit == heatmap.LEAST_LIMIT and change[1, 1] == pytest.approx(0.4)
    assert heatmap.is_signed("lrp", -values) and not heatmap.is_signed("saliency", values)
    assert heatmap.is_signed("another", values) and not heatmap.is_signed("another", values.abs())


def test_png_is_a_picture_and_the_same_for_the_same_figure(explanation):
    data = png(grid(explanation))
    assert data == png(grid(explanation))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200


def test_sparsity_chart(explanation):
    other = [layer("conv", 0.5), layer("fc", 1.0)]
    (axis,) = sparsity_chart({**explanation.layers, "FastSPADE": other}).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axis.get_lines()[:2]}
    assert drawn == {"SPADE": [0.25, 0.75], "FastSPADE": [0.5, 1.0]}
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["conv", "fc"]


def test_page_holds_everything_and_needs_nothing(explanation):
    page = html(
        [explanation],
        title="A & B",
        classes=["dog", "cat"],
        tables=[{"title": "Scores", "head": ["method", "mean"], "rows": [["lrp", "0.5"]]}],
        notes=["n < 30"],
    )
    assert not re.search(r"https?://|<link|@import|<script src|<iframe", page)
    sources = re.findall(r'src="(.*?)"', page)
    assert len(sources) == 6  # of two methods: dense, trace, difference
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "--photograph: url(data:image/jpeg;base64," in page
    text = text_of(page)
    for words in (
        "A &amp; B", "cat &lt;1&gt;.png", "Answers dog .62.", "The maps explain cat.", "Scores method mean lrp 0.5",
        "n &lt; 30", "SPADE 100 % 50 % 0.988 0.900 0.123 0.400", "whole network 0.25 0.00 0.25",
        "SPADE 0.12 1.50 1.62", "conv 0.250 4 9 0.50 1.00e-02 0.02 0.003 pruned", "dog .62 cat .21",
        "Red pixels gave the score its relevance",
    ):  # fmt: skip
        assert words in text, words


def test_a_label_has_maps_of_its_own_and_their_difference(explanation):
    explanation.target, explanation.label = 0, 1
    explanation.label_probability.update(dense=0.21, SPADE=0.1)
    explanation.label_maps = {m: dict(columns) for m, columns in explanation.maps.items()}
    page = html([explanation], classes=["dog", "cat"])
    text = text_of(page)
    for words in ("Says dog .62, you say cat .21.", "for dog", "for cat", "difference of both"):
        assert words in text, words
    assert len(re.findall('src="', page)) == 2 * (3 + 3 + 2)
    explanation.label, explanation.label_maps = 0, {}
    assert "Says dog .62, as you do." in html([explanation], classes=["dog", "cat"])


def test_layers_left_dense_stand_in_their_place_with_a_reason(explanation):
    order = {"": 0, "a": 1, "b": 2, "b.inner": 3, "c": 4}
    layers = [layer("a", 0.5), layer("c", 0.5), layer("b.inner.weight", 0.0, "give it to <a>")]
    found = in_place(layers, order)
    assert [x.name for x in found] == ["a", "b.inner.weight", "c"]
    explanation.layers["SPADE"] = found
    page = html([explanation])
    assert page.count('<rect class="left"') == 1
    assert "unsupported: give it to &lt;a&gt;" in page
    (axis,) = sparsity_chart({"SPADE": found}).axes
    assert list(axis.get_lines()[1].get_xdata()) == [1]


def test_the_report_grows_picture_by_picture(explanation, tmp_path):
    path = tmp_path / "report.html"
    report = GrowingReport(path, "T", ["dog", "cat"], 3)
    for k in range(3):
        explanation.name = f"picture {k}"
        report.add(explanation)
        if k == 0:
            assert "1 of 3 images so far" in path.read_text()
    report.close()
    page = path.read_text()
    assert page.count("<article") == 3 and "so far" not in page and "picture 2" in page


def test_page_of_tables_alone():
    page = html([], tables=[{"title": "T", "head": ["a"], "rows": [["1"]]}])
    assert "<td>1</td>" in page
    assert "<img" not in page


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "new" / "page.html"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"three")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_an_unfaithful_trace_carries_a_badge_with_its_answer(explanation):
    same = Agreement(0.0, 0.1, 0.9, 1)
    reasons = ("it answers class 2 where the dense model answers 0", "it leaves 9% of it")
    verdict = Verdict(False, reasons, 0, 0.9, 2, 0.75, 0.1, 0.5, 8)
    explanation.fidelity["SPADE"] = Fidelity(same, same, verdict)
    page = html([explanation], classes=["dog", "cat", "fox <b>"])
    assert '<span class="badge unfaithful">not faithful</span>' in page
    assert "The SPADE trace answers fox &lt;b&gt; .75: not faithful" in text_of(page)
    assert "it answers fox &lt;b&gt; and not dog; it leaves 9% of it" in page
    figure = grid(explanation, classes=["dog", "cat", "fox"])
    assert "The SPADE trace answers fox .75: not faithful." in figure.get_suptitle()
    summary = explanation.summary()["traces"]["SPADE"]
    assert summary["faithful"] is False and summary["answer"] == 2
    assert summary["probability"] == 0.75 and summary["reasons"] == reasons
    explanation.fidelity["SPADE"] = Fidelity(
        same, same, replace(verdict, faithful=True, reasons=())
    )
    assert "badge unfaithful" not in html([explanation])
