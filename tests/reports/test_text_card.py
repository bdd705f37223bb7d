"""What a page shows of a text: words and what lies between them, each column with its difference."""

import pytest
import torch

from spade_xai.models.tokens import Word
from spade_xai.reports.page import render
from spade_xai.reports.text_card import text_card
from spade_xai.reports.text_explain import TextExplanation

TEXT = "Fine  acting, <so-so> plot"
WORDS = (Word(0, 4, (1,)), Word(6, 12, (2, 3)), Word(12, 13, (4,)), Word(22, 26, (5,)))


@pytest.fixture
def explanation():
    dense = torch.tensor([9.0, 1.0, 0.25, 0.25, 0.0, -1.0, 9.0])
    pruned = torch.tensor([0.0, 1.0, -0.25, -0.25, 0.0, 1.0, 0.0])
    maps = {"integrated_gradients": {"dense": dense, "SPADE": pruned}}
    pieces = ("[CLS]", "fine", "act", "##ing", ",", "plot", "[SEP]")
    return TextExplanation(
        name="text-1", text=TEXT, pieces=pieces, words=WORDS, target=1, prediction=1, maps=maps
    )


def values(line):
    return {part["text"]: part["value"] for part in line["parts"]}


def test_words_have_the_sum_of_their_tokens(explanation):
    maps = explanation.summary()["maps"]["integrated_gradients"]
    assert maps == {"dense": [1.0, 0.5, 0.0, -1.0], "SPADE": [1.0, -0.5, 0.0, 1.0]}
    assert explanation.summary()["words"] == ["Fine", "acting", ",", "plot"]


def test_lines_hold_the_whole_text(explanation):
    (method,) = text_card(explanation, ["bad", "good"])["methods"]
    (view,) = method["views"]
    assert view["name"] == "for good" and view["signed"]
    whole, spade, change = view["lines"]
    for line in view["lines"]:
        assert "".join(part["text"] for part in line["parts"]) == TEXT
    assert values(whole) == {
        "Fine": 1.0, "  ": None, "acting": 0.5, ",": 0.0, " <so-so> ": None, "plot": -1.0,
    }  # fmt: skip
    assert values(spade)["plot"] == 1.0 and not spade["change"]
    # of the scale of both maps: acting by -1, plot by 2, cut to the ends of the scale
    assert change["change"] and change["title"].startswith("SPADE - whole network, ±1.0")
    assert values(change)["Fine"] == 0.0 and values(change)["acting"] == -1.0


def test_magnitudes_have_no_sign(explanation):
    explanation.maps = {"saliency": explanation.maps["integrated_gradients"]}
    card = text_card(explanation)
    assert not card["methods"][0]["views"][0]["signed"]
    page = render("texts.html", title="T", cards=[card], notes=["a note"])
    assert '<span class="with much" style="--share: 1.000" title="1.00">Fine</span>' in page
    assert "&lt;so-so&gt;" in page and "in which direction is not said" in page
    assert "a note" in page
