"""explain and evaluate on texts, of a tiny BERT that was trained for this."""

import json
import re

import pytest
import tiny_bert
import torch

from spade_xai import load_model
from spade_xai.attribution.tokens import token_map
from spade_xai.measures.text import dffot, dfmit
from spade_xai.models.texts import read_texts
from spade_xai.models.tokens import Tokenizer

FAST = ["-n", "8", "--no-progress"]


@pytest.fixture
def spec(berts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return f"transformers:{berts()}"


def test_explain(run, spec, tmp_path):
    text = "The <b>story</b> was GOOD, finely"
    methods = ["-a", "integrated_gradients", "-a", "saliency"]
    tracers = ["-t", "SPADE", "-t", "FastSPADE"]
    command = [
        "explain",
        "--text",
        text,
        "--text",
        "dull and awful",
        "-m",
        spec,
        *methods,
        *tracers,
    ]
    code, out, err = run(
        *command, *FAST, "--json", "--target", "positive", "--label", "negative", "-o", "out"
    )
    assert code == 0, err
    first, second = json.loads(out)["texts"]
    assert first["words"] == "The < b > story < / b > was GOOD , finely".split()
    assert first["text"] == text and second["prediction"] == 0 == second["label"]
    model = load_model(spec)
    tokenizer = Tokenizer(spec, model)
    expected = token_map(model, tokenizer(text).tokens, 1, "integrated_gradients", pad=0)[1:-1]
    got = first["maps"]["integrated_gradients"]
    assert list(got) == ["dense", "SPADE", "FastSPADE"]
    whole = [*expected[:-2].tolist(), float(expected[-2:].sum())]  # fine, ##ly
    assert got["dense"] == pytest.approx(whole, abs=1e-6)
    assert first["target"] == second["target"] == 1
    assert max(zip(whole, first["words"], strict=True))[1] in ("GOOD", "finely")
    assert list(second["label_maps"]["saliency"]) == list(got)
    trace = first["traces"]["SPADE"]
    assert [layer["name"] for layer in trace["layers"] if not layer["reason"]] == ["classifier"]
    assert trace["faithful"] in (True, False)
    page = (tmp_path / "out/report.html").read_text()
    assert "<b>" not in page.partition("<article")[2].partition("</figure>")[0]
    assert ">GOOD</span>" in page
    assert page.count("<article") == 2 and "Says negative" in page


def test_what_an_earlier_run_made_is_kept(run, spec, tmp_path):
    (tmp_path / "films.txt").write_text("a good film\n\nan awful story\n")
    command = ["explain", "films.txt", "-m", spec, *FAST, "-o", "out"]
    code, out, err = run(*command)
    assert code == 0, err
    assert "classification head (classifier)" in out and "films-00003: Answers negative" in out
    assert re.search(r"integrated_gradients, dense: most for the class: awful", out)
    files = sorted((tmp_path / "out").glob("*.json"))
    before = [file.read_bytes() for file in files]
    times = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 2 and run(*command)[1] == out
    assert [file.stat().st_mtime_ns for file in files] == times
    assert run(*command, "--seed", "1")[0] == 0
    assert [file.read_bytes() for file in files] != before
    files[0].write_text("mine")
    code, _, err = run(*command)
    assert code == 1 and "was not written by spade-xai" in err


def test_evaluate(run, spec, tmp_path):
    file = tiny_bert.write_set(tmp_path / "dev.tsv", count=6)
    code, out, err = run("evaluate", file, "-m", spec, *FAST, "-s", "0.5", "-o", "out", "--json")
    assert code == 0, err
    record = json.loads(out)
    rows = {(r["metric"], r["method"], r["map"]): r for r in record["scores"]}
    maps = ["dense", "SPADE", "SPADE, other text", "FastSPADE", "random"]
    assert [m for metric, method, m in rows if (metric, method) == ("dffot", "average")] == maps
    assert record["accuracy"] == {"mean": 1.0, "standard_error": 0.0, "n": 6}
    assert {r["map"] for r in record["own_minus_other_text"]} == {"SPADE"}
    model = load_model(spec)
    tokenizer, flips, shares = Tokenizer(spec, model), [], []
    for text in read_texts(file):
        tokens = tokenizer(text.text).tokens
        scores = token_map(model, tokens, text.label, "integrated_gradients", pad=0)[None]
        flips.append(float(dffot(model, tokens.ids, scores, tokens.free)))
        shares.append(float(dfmit(model, tokens.ids, scores, tokens.free)))
    for metric, values in (("dffot", flips), ("dfmit", shares)):
        own = rows[metric, "integrated_gradients", "dense"]
        values = torch.tensor(values, dtype=torch.float64)
        assert own["n"] == 6 and own["mean"] == pytest.approx(float(values.mean()))
        assert own["standard_error"] == pytest.approx(float(values.std() / 6**0.5))
    assert not re.search("image", (tmp_path / "out/scores.json").read_text())
    page = (tmp_path / "out/report.html").read_text()
    assert "DFMIT" in page and "SPADE, other text" in page
    records = sorted((tmp_path / "out/samples").iterdir())
    assert len(records) == 3 * 6
    times = [file.stat().st_mtime_ns for file in records]
    assert run("evaluate", file, "-m", spec, *FAST, "-s", "0.5", "-o", "out", "--json")[1] == out
    assert [file.stat().st_mtime_ns for file in records] == times


def test_ag_news(run, berts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tiny_bert.write_set(tmp_path / "test.csv", "ag_news", 8)
    spec = f"transformers:{berts('ag_news')}"
    code, out, err = run("evaluate", file, "-m", spec, *FAST, "--limit", "4", "-t", "FastSPADE")
    assert code == 0, err
    assert "accuracy of the whole network: 1.000 ± 0.000 (n = 4)" in out and "n = 4" in out


def test_augmentations(run, spec, tmp_path):
    base = ["explain", "--text", "a good film", "-m", spec, *FAST]
    assert "varied by TextAugment(['swap', 'delete']" in run(*base, "--augment", "swap,delete")[1]
    code, out, _ = run(*base, "--augment", "none", "-o", "none")
    assert code == 0 and "varied by nothing" in out
    assert (
        "synonyms: the nearest words of the" in run(*base, "--synonyms", "embedding", "-o", "e")[1]
    )
    code, _, err = run(*base, "--augment", "crop")
    assert code == 1 and "--augment: of texts" in err and "'crop'" in err


@pytest.mark.parametrize(
    "options, told",
    [
        (["-a", "grad_cam"], "--method grad_cam weighs a feature map of pixels"),
        (["--size", "8"], "--size is for images, and the command is given texts"),
        (["--normalize", "none"], "--normalize is for images"),
        (["--z-box"], "--z-box is for images"),
        (["--masks", "."], "--masks is for images"),
        (["--target", "neutral"], "--target must be a class of the model, got 'neutral'"),
        (["film.png"], r"the files must all be texts .*, got film.png"),
        (["-l", "bert.no"], "bert.no"),
    ],
)
def test_what_texts_do_not_go_with(run, spec, tmp_path, options, told):
    (tmp_path / "a.txt").write_text("a good film\n")
    code, _, err = run("explain", "a.txt", "-m", spec, *FAST, *options)
    assert code == 1 and re.search(told, err), err


def test_networks_and_images_that_texts_do_not_go_with(run, spec, pictures):
    (pictures / "a.txt").write_text("a good film\n")
    fast = ["-n", "8", "--no-progress"]
    code, _, err = run("explain", "pictures/a.txt", "-m", "command_line:make", *fast)
    assert code == 1 and "texts need a text classifier of transformers" in err
    code, _, err = run(
        "explain", "pictures/a.png", "-m", "command_line:make", *fast, "--limit", "2"
    )
    assert code == 1 and "--limit is for texts, and the files given are images" in err
    code, _, err = run("evaluate", "pictures/a.txt", "-m", spec, *fast, "--shard", "2", "-o", "x")
    assert code == 1 and "--shard is for images" in err
    code, _, err = run("explain", "pictures/a.png", "-m", spec, *fast)
    assert code == 1 and "reads texts, not images" in err
    code, _, err = run("trace", "pictures/a.txt", "-m", spec, *fast)
    assert code == 1 and "a.txt holds texts, and this command takes images" in err
    code, _, err = run("explain", "-m", "command_line:make")
    assert code == 2 and "--text" in err


def test_a_model_of_one_logit(run, berts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two = load_model(f"transformers:{berts()}")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(
        berts(), id2label={0: "positive"}, label2id={"positive": 0}, problem_type="regression"
    )
    one = transformers.BertForSequenceClassification(config)
    weights = two.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][1:] - weights[name][:1]
    one.load_state_dict(weights)
    one.save_pretrained("one")
    Tokenizer(f"transformers:{berts()}", two).tokenizer.save_pretrained("one")
    tiny_bert.write_set(tmp_path / "dev.tsv", count=6)
    records = []
    for spec in ("transformers:one", f"transformers:{berts()}"):
        options = ["-s", "0", "-t", "FastSPADE", "--json"]
        code, out, err = run("evaluate", "dev.tsv", "-m", spec, *FAST, *options)
        assert code == 0, err
        records.append(json.loads(out))
    assert records[0]["accuracy"] == records[1]["accuracy"]
