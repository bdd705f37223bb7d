"""Runs of tables: resuming, refusals, tuned sparsities, a sparse checkpoint, other pictures than the one explained."""

import json
from pathlib import Path

import pytest
import tiny_planted
import torch
from safetensors.torch import save_file

import spade_xai.reports.scores
from spade_xai import trace
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.measures import metrics
from spade_xai.reports.explain import image_map
from spade_xai.reproduce.selection import Pool, Stream
from spade_xai.reproduce.table import REFUSED
from spade_xai.trojans.trojan import predictions

TINY = ["-n", "4", "-a", "saliency", "--limit", "2", "--no-progress"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "planted"
    tiny_planted.write(folder)
    return folder


@pytest.fixture
def traced(monkeypatch):
    """Samples that were traced."""
    samples = []
    original = spade_xai.reports.scores.trace_many

    def counting(model, given, **options):
        return original(model, (samples.append(x) or x for x in given), **options)

    monkeypatch.setattr(spade_xai.reports.scores, "trace_many", counting)
    return samples


def rows_of(folder):
    rows = json.loads((folder / "result.json").read_text())["rows"]
    return {(r["metric"], r["row"], r["column"]): r["mean"] for r in rows}


def test_scores_are_those_of_maps_made_one_by_one(tiny, run, tmp_path):
    assert run("reproduce", "7", "--planted", tiny, *TINY, "-s", "0.5", "-o", "out")[0] == 0
    found = rows_of(tmp_path / "out")
    pictures = sorted(str(p) for p in (tiny / "trojan").glob("??.png"))
    given = load_inputs(
        InputOptions(pictures, "tiny_planted:make", None, False, None, None, "none"),
        masks=tiny / "trojan",
    )
    expected = []
    for picture in given.pictures():
        sparse = trace(given.model, picture.x, sparsity=0.5, augmentations=4, progress=False).model
        label = predictions(given.model, picture.x)
        seen = image_map(sparse, picture.x, label, "saliency", 0)
        expected.append(float(metrics.auroc(seen, picture.mask[None])))
    mean = 100 * sum(expected) / len(expected)
    assert found["auroc", "saliency", "SPADE"] == pytest.approx(mean, abs=1e-4)


def test_a_rerun_traces_nothing_and_a_change_traces_anew(tiny, run, traced, tmp_path):
    arguments = ["reproduce", "17", "--planted", tiny, *TINY, "-o", "out"]
    assert run(*arguments)[0] == 0
    first, count = rows_of(tmp_path / "out"), len(traced)
    assert count > 0
    assert run(*arguments)[0] == 0
    assert len(traced) == count and rows_of(tmp_path / "out") == first
    one = next((tmp_path / "out/samples/parallel-0").iterdir())
    one.write_bytes(one.read_bytes()[:-20])
    assert run(*arguments)[0] == 0
    assert len(traced) == count + 1 and rows_of(tmp_path / "out") == first
    assert run(*arguments, "-s", "0.3")[0] == 0
    assert len(traced) > count + 1


def test_files_of_others_are_not_touched(tiny, run, tmp_path):
    file = tmp_path / "out/samples/dense/00.json"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    code, _, err = run("reproduce", "17", "--planted", tiny, *TINY, "-o", "out")
    assert code == 1 and "was not written by spade-xai" in err and file.read_text() == "mine"


def test_bundled_pictures_are_whole_or_absent(tmp_path, monkeypatch):
    from spade_xai.trojans import bundled

    write = bundled.write_planted
    monkeypatch.setattr(bundled, "write_planted", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bundled.unpack("toy", tmp_path / "toy")
    assert not (tmp_path / "toy").exists()
    monkeypatch.setattr(bundled, "write_planted", write)
    found = bundled.unpack("toy", tmp_path / "toy")
    assert len(found.trojan) == 64 and found.bundled
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("name", [*REFUSED, "99"])
def test_what_is_not_there_says_why(name, run):
    code, _, err = run("reproduce", name)
    assert code == 1
    assert REFUSED.get(name, "TABLE must be one of") in err


def test_tuned_sparsities_of_each_method(tiny, run, tmp_path):
    folder = tmp_path / "tuned" / "spade"
    folder.mkdir(parents=True)
    (folder / "saliency.json").write_text('{"sparsity": {"layer4": 0.5}}')
    arguments = ["reproduce", "7", "--planted", tiny, *TINY, "--tuned", "tuned", "-o", "out"]
    code, _, err = run(*arguments, "-a", "input_x_gradient")
    assert code == 1 and "input_x_gradient.json" in err
    (folder / "input_x_gradient.json").write_text('{"sparsity": {"layer3": 0.9}}')
    code, _, err = run(*arguments, "-a", "input_x_gradient")
    assert code == 0, err
    result = json.loads((tmp_path / "out/result.json").read_text())
    for column in ("SPADE", "Magnitude"):
        texts = {m: Path(text).name for m, text in result["sparsity"][column].items()}
        assert texts == {m: f"{m}.json" for m in ("saliency", "input_x_gradient")}
    assert result["faithful"]["SPADE"]["of"] == 4  # two pictures, two sparsities


def test_a_sparse_checkpoint(tiny, run, tmp_path):
    model = tiny_planted.make()
    with torch.no_grad():
        model.layer4[0].weight.mul_(torch.rand(model.layer4[0].weight.shape) > 0.9)
    save_file(model.state_dict(), tmp_path / "cap.safetensors")
    code, out, err = run(
        "reproduce", "6", "--planted", tiny, *TINY, "--checkpoint", "cap.safetensors", "-o", "out"
    )
    assert code == 0, err
    assert "98% sparse network:" in out and "of the weights are zero" in out
    assert ("auroc", "saliency", "98% sparse network") in rows_of(tmp_path / "out")


def test_a_stream_draws_the_same_pictures_in_each_pass(tiny):
    given = load_inputs(
        InputOptions([str(tiny / "clean")], "tiny_planted:make", None, False, None, None, "none")
    )
    pool = Pool(given.paths, [0] * len(given.paths), given.preprocessing)
    stream = Stream(pool, range(len(given.paths)), torch.ones(4, 5, 5))
    images = torch.zeros(6, 3, 16, 16)
    passes = []
    for _ in range(2):
        torch.manual_seed(3)
        passes.append(stream(images))
    assert torch.equal(*passes)
    assert all(int((image == image.amax()).sum()) > 0 for image in passes[0])
    known = torch.stack([pool.image(k) for k in range(len(given.paths))])
    changed = (passes[0][:, None] != known[None]).any(2).flatten(2).sum(2).amin(1)
    assert int(changed.max()) <= 25 and int(changed.min()) > 0  # the patch, and nothing else


def test_without_a_table_they_are_listed(run):
    code, out, _ = run("reproduce")
    assert code == 0 and "Table 20:" in out and "Figure H.6" in out
