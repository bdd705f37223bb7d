"""The page of the lottery studies says what their committed results say."""

import json

import pytest

from benchmarks import RESULTS
from benchmarks.lottery_page import BLOCKS, PAGE, counted, filled, number
from benchmarks.lottery_study import slim


def test_the_page_is_that_of_the_results():
    text = PAGE.read_text()
    assert filled(text) == text, "python -m benchmarks.lottery_page writes it anew"
    assert all(f"<!-- lottery {name} -->" in text for name in BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_results_say_how_they_were_made(name):
    record = json.loads((RESULTS / f"lottery-{name}.json").read_text())
    assert len(record["commit"]) == 40 and record["machine"]["threads"] == 1
    assert record["commands"][0].startswith("spade-xai lottery find ")


def test_figures_in_words():
    value = {"mean": -0.0312, "standard_error": 0.5, "n": 3}
    assert number(value) == "-.031 ± .500" and counted(value) == "-.031 ± .500 (n = 3)"
    assert number({"mean": 10.25, "standard_error": None, "n": 1}, 1) == "10.2"
    assert number(None) == "" and number({"mean": None, "standard_error": None, "n": 0}) == ""
    assert slim({"by_class": [1], "x": [0.12345678, "a"]}) == {"x": [0.123457, "a"]}
