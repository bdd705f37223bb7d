"""Pictures and pages: what is drawn, that a page needs nothing else, and that files are whole."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from spade_xai.reports.explain import Explanation
from spade_xai.reports.report import grid, html, png, sparsity_chart, write_atomically
from spade_xai.tracing.fidelity import Agreement, Fidelity
from spade_xai.tracing.layer_report import LayerReport
from spade_xai.tracing.verdict import Verdict


def layer(name, got):
    return LayerReport(name, 4, 9, 0.5, got, 0.1, 0.01, 0.02, 0.003, "pruned")


@pytest.fixture
def explanation():
    generator = torch.Generator().manual_seed(0)
    maps = {
        method: {column: torch.randn(8, 8, generator=generator) for column in ("dense", "SPADE")}
        for method in ("lrp", "saliency")
    }
    maps["saliency"] = {name: values.abs() for name, values in maps["saliency"].items()}
    image = torch.rand(3, 8, 8, generator=generator)
    result = Explanation("cat <1>.png", image, 1, 0, maps)
    result.layers["SPADE"] = [layer("conv", 0.25), layer("fc", 0.75)]
    agreement = Agreement(1.0, 0.98765, 0.12345, 1)
    result.fidelity["SPADE"] = Fidelity(agreement, Agreement(0.5, 0.9, 0.4, 64))
    result.seconds.update(dense={"maps": 0.25}, SPADE={"forward": 1.5, "maps": 0.125})
    return result


def test_grid_has_a_row_a_method_and_a_column_a_model(explanation):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    figure = grid(explanation, mask)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["input", "dense", "SPADE", "", "", ""]
    assert [a.get_ylabel() for a in figure.axes if a.get_ylabel()] == ["lrp", "saliency"]
    drawn = figure.axes[2].get_images()[0]
    values = explanation.maps["lrp"]["SPADE"]
    np.testing.assert_allclose(drawn.get_array(), values / values.abs().max(), rtol=1e-6)
    assert drawn.get_clim() == (-1, 1)
    assert figure.axes[5].get_images()[0].get_clim() == (0, 1)
    picture = figure.axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(picture, explanation.image.permute(1, 2, 0))
    assert len(figure.axes[0].collections) == 1  # the outline of the mask
    assert not grid(explanation).axes[0].collections


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
    assert not re.search(r"https?://|<script|<link|@import", page)
    sources = re.findall(r'src="(.*?)"', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.replace(sources[0], "")))
    for words in (
        "A &amp; B", "cat &lt;1&gt;.png", "Explained: cat", "answers: dog", "Scores method mean lrp 0.5",
        "n &lt; 30", "SPADE yes 100 % 50 % 0.988 0.900 0.123 0.400", "dense 0.25 0.00", "SPADE 0.12 1.50",
        "conv 4 9 0.50 0.250 1.00e-02 0.02 0.003 pruned",
    ):  # fmt: skip
        assert words in text, words


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
    verdict = Verdict(False, ("it answers class 2",), 0, 0.9, 2, 0.75, 0.1, 0.5, 8)
    explanation.fidelity["SPADE"] = Fidelity(same, same, verdict)
    page = html([explanation], classes=["dog", "cat", "fox <b>"])
    assert (
        '<span class="unfaithful">SPADE is not faithful: the trace answers fox &lt;b&gt; (75%)'
        in page
    )
    figure = grid(explanation, classes=["dog", "cat", "fox"])
    title = figure.axes[2].title
    assert title.get_text() == "SPADE: not faithful,\nanswers fox" and title.get_color() == "red"
    summary = explanation.summary()["traces"]["SPADE"]
    assert summary["faithful"] is False and summary["answer"] == 2
    assert summary["probability"] == 0.75 and summary["reasons"] == ("it answers class 2",)
    explanation.fidelity["SPADE"] = Fidelity(
        same, same, replace(verdict, faithful=True, reasons=())
    )
    assert 'class="unfaithful"' not in html([explanation])
