"""Synonyms of tokens from WordNet, as EDA takes them, where nltk and its data are at hand."""

from collections.abc import Sequence
from typing import Any

from spade_xai.tracing.text_augment import Neighbours

HINT = "pip install 'spade-ext[text]', then python -m nltk.downloader wordnet"


class WordNetMissing(ModuleNotFoundError):
    """nltk or its data of WordNet is not at hand; the message says which, and what to do."""


def wordnet(tokenizer: Any) -> Neighbours:
    """Synonyms by WordNet, for `TextAugment`: the lemmas of all synsets of a token that is a word.

    `TextAugment` replaces one token by one token: words and synonyms that the tokenizer cuts into several tokens have
    no part. Stop words have no synonyms, as in EDA; its lemmas of more than one word are left out too.

    Args:
        tokenizer: Of transformers.

    Raises:
        WordNetMissing: nltk or its data of WordNet is not at hand.

    Source: Wei, Zou, "EDA" (EMNLP 2019).
    """
    try:
        from nltk.corpus import wordnet as corpus
    except ModuleNotFoundError as error:
        raise WordNetMissing(f"wordnet: nltk is not installed ({error}): {HINT}") from None
    try:
        corpus.synsets("word")
    except (LookupError, OSError):
        raise WordNetMissing(f"wordnet: nltk's data of WordNet is not at hand: {HINT}") from None
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    known: dict[int, Sequence[int]] = {}

    def synonyms(token: int) -> Sequence[int]:
        if token not in known:
            known[token] = _synonyms(tokenizer, corpus, ENGLISH_STOP_WORDS, token)
        return known[token]

    return synonyms


def _synonyms(tokenizer: Any, corpus: Any, stop_words: frozenset[str], token: int) -> Sequence[int]:
    word = str(tokenizer.decode([token])).strip().lower()
    if not word.isalpha() or word in stop_words:
        return ()
    # Where a space belongs to the token, its synonyms begin with one too.
    space = next((s for s in (" ", "") if _ids(tokenizer, s + word) == [token]), None)
    if space is None:
        return ()  # part of a word, or written with capitals
    lemmas = {str(name).lower() for synset in corpus.synsets(word) for name in synset.lemma_names()}
    found = [_ids(tokenizer, space + lemma) for lemma in sorted(lemmas) if lemma.isalpha()]
    unknown = tokenizer.unk_token_id
    return [ids[0] for ids in found if len(ids) == 1 and ids[0] not in (token, unknown)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
