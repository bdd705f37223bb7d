"""Synonyms of tokens by WordNet: its data is not at hand in tests, so a few synsets stand for it."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from spade_xai import load_model
from spade_xai.models.tokens import Tokenizer
from spade_xai.tracing.wordnet import WordNetMissing, wordnet

SYNSETS = {
    "film": [["film", "story"], ["film", "movie"]],
    "good": [["good", "Great", "well_behaved", "goodly"], ["fine"]],
    "it": [["information_technology", "IT"]],
}


@pytest.fixture
def tokenizer(berts):
    spec = f"transformers:{berts()}"
    return Tokenizer(spec, load_model(spec)).tokenizer


def installed(monkeypatch, synsets):
    """A module that stands for nltk.corpus."""
    module = ModuleType("nltk.corpus")
    module.wordnet = SimpleNamespace(synsets=synsets)
    monkeypatch.setitem(sys.modules, "nltk", ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", module)


def test_synonyms_are_tokens(monkeypatch, tokenizer):
    def synsets(word):
        return [SimpleNamespace(lemma_names=lambda n=n: n) for n in SYNSETS.get(word, [])]

    installed(monkeypatch, synsets)
    synonyms = wordnet(tokenizer)

    def of(word):
        token = tokenizer.convert_tokens_to_ids(word)
        return tokenizer.convert_ids_to_tokens(list(synonyms(token)))

    assert of("film") == ["story"]  # the tokenizer does not know "movie"
    assert of("good") == ["fine", "great"]  # "goodly" is two tokens, "well_behaved" two words
    assert of("it") == [] and of("##s") == [] and of("[CLS]") == [] and of(",") == []


def test_what_is_missing_is_said(monkeypatch, tokenizer):
    def synsets(word):
        raise LookupError("Resource wordnet not found")

    installed(monkeypatch, synsets)
    with pytest.raises(WordNetMissing, match=r"data of WordNet is not at hand: .*nltk\.downloader"):
        wordnet(tokenizer)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(WordNetMissing, match=r"nltk is not installed .*spade-ext\[text\]"):
        wordnet(tokenizer)
