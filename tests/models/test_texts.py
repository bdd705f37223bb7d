"""Files of texts, and texts as tokens."""

import pytest
import torch

from spade_xai import load_model
from spade_xai.models.texts import Text, TextError, read_texts
from spade_xai.models.tokens import Tokenizer
from spade_xai.models.weights import ModelError


def written(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    return tmp_path / name


def test_lines(tmp_path):
    file = written(tmp_path, "my.txt", "\ufeffA film.\r\n\r\n  naïve, 1\t2  \n")
    assert read_texts(file) == [Text("my-00001", "A film."), Text("my-00003", "naïve, 1\t2")]


def test_sst2(tmp_path):
    text = 'sentence\tlabel\nhide "new" secretions , \t0\nbrilliant\t1\n'
    found = read_texts(written(tmp_path, "dev.tsv", text))
    assert [(t.text, t.label) for t in found] == [('hide "new" secretions ,', 0), ("brilliant", 1)]
    (test,) = read_texts(written(tmp_path, "test.tsv", "index\tsentence\n0\tuneasy mishmash\n"))
    assert (test.text, test.label) == ("uneasy mishmash", None)


def test_stanford(tmp_path):
    file = written(tmp_path, "stsa.txt", "1 a stirring film\n\n0 no movement\n")
    assert [(t.text, t.label) for t in read_texts(file, "stanford")] == [
        ("a stirring film", 1), ("no movement", 0),
    ]  # fmt: skip


def test_ag_news(tmp_path):
    rows = '"3","Wall St. ""Bears""","Short-sellers, seeing\ngreen"\n"4","Chips","Faster"\n'
    for head in ("", "Class Index,Title,Description\n"):
        found = read_texts(written(tmp_path, "test.csv", head + rows))
        assert found[0].text == 'Wall St. "Bears" Short-sellers, seeing\ngreen'
        assert [t.label for t in found] == [2, 3]
        assert len({t.name for t in found}) == 2


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("a.tsv", "a film\t1\n", "a.tsv is not of the format sst2: line 1 must be a head with sen"),
        ("a.tsv", "sentence\tlabel\ngood\t1\nbad\n", "line 3 must have 2 values, got 1"),
        ("a.tsv", "sentence\tlabel\ngood\t2\n", "line 2 must have a class from 0 to 1, got '2'"),
        ("a.csv", "1,title\n", "line 1 must have class, title and description, got 2"),
        ("a.csv", "5,t,d\n", "line 1 must have a class from 1 to 4, got '5'"),
        ("a.csv", '1,t,"d\n', "not of the format ag_news"),
        ("a.txt", " \n\n", "a.txt must hold a text, got none"),
    ],
)
def test_what_is_no_set_of_texts(tmp_path, name, text, told):
    with pytest.raises(TextError, match=told):
        read_texts(written(tmp_path, name, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TextError, match=r"no file .*missing\.txt"):
        read_texts(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(TextError, match="as text in UTF-8"):
        read_texts(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match=r"read_texts: .*'sst'"):
        read_texts(tmp_path / "latin.txt", "sst")


@pytest.fixture
def tokenizer(berts):
    spec = f"transformers:{berts()}"
    return Tokenizer(spec, load_model(spec))


def test_words_are_those_of_the_text(tokenizer):
    text = "The Film, goods  and <b> FINELY"
    found = tokenizer(text)
    assert [text[w.start : w.end] for w in found.words] == [
        "The", "Film", ",", "goods", "and", "<", "b", ">", "FINELY",
    ]  # fmt: skip
    assert found.pieces[4:6] == ("good", "##s") and found.words[3].tokens == (4, 5)
    tokens = found.tokens
    assert not found.cut and tokens.free[0].tolist() == [False] + 11 * [True] + [False]
    assert list(tokens.x) == ["input_ids", "attention_mask", "token_type_ids"]
    places = [place for word in found.words for place in word.tokens]
    assert places == tokens.free[0].nonzero().flatten().tolist()


def test_long_texts_are_cut_to_what_the_model_takes(tokenizer):
    whole, longer = tokenizer("film " * 22), tokenizer("film " * 23)
    assert whole.tokens.ids.shape == longer.tokens.ids.shape == (1, 24) and tokenizer.most == 24
    assert not whole.cut and longer.cut
    with pytest.raises(ValueError, match="text must have a token, got ' '"):
        tokenizer(" ")


def test_models_without_a_tokenizer(berts, tmp_path):
    model = load_model(f"transformers:{berts()}")
    for spec, told in (
        ("timm:resnet18", "texts need a model of transformers"),
        ("transformers:bert", "must be a folder that holds model and tokenizer"),
        (f"transformers:{tmp_path}", "cannot read the tokenizer in"),
    ):
        with pytest.raises(ModelError, match=told):
            Tokenizer(spec, model)
    model.resize_token_embeddings(8)
    with pytest.raises(ModelError, match="at most the model's 8 tokens, got 27: it is of another"):
        Tokenizer(f"transformers:{berts()}", model)


def test_roberta_counts_positions_from_behind_the_padding():
    import transformers

    from spade_xai.models.tokens import _longest

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    config = transformers.RobertaConfig(**sizes, max_position_embeddings=20, pad_token_id=1)
    model = transformers.RobertaForSequenceClassification(config).eval()

    class Unlimited:
        model_max_length = 10**30

    most = _longest(Unlimited, model)
    assert most == 18
    model(torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, most + 1), 5))


@pytest.mark.parametrize("spaces", [True, False])
def test_words_of_bytes_begin_behind_their_space(tmp_path, spaces):
    import tokenizers
    import transformers

    made = tokenizers.ByteLevelBPETokenizer(trim_offsets=not spaces)
    text = "a  naïve film, finely made"
    made.train_from_iterator([text], 300, special_tokens=["<|endoftext|>"])
    made.save_model(str(tmp_path))
    names = (str(tmp_path / name) for name in ("vocab.json", "merges.txt"))
    tokenizer = transformers.GPT2Tokenizer(*names, pad_token="<|endoftext|>")
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=64, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = f"transformers:{tmp_path}"
    found = Tokenizer(spec, load_model(spec))(text)
    words = [text[w.start : w.end] for w in found.words]
    assert [w for w in words if w] == ["a", "naïve", "film", ",", "finely", "made"]
    assert "token_type_ids" not in found.tokens.x and found.tokens.free.all()
