"""The record, its report, the comparison of two runs, and the whole study by one command."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from spade_xai.cli import main
from spade_xai.lottery import report as rp
from spade_xai.lottery.collect import collect, difference, estimate
from spade_xai.lottery.compare import compare, permutation_p
from spade_xai.lottery.concept_sections import chosen_classes
from spade_xai.lottery.data import shapes
from spade_xai.lottery.difficulty import difficulty
from spade_xai.lottery.folder import Run
from spade_xai.lottery.pcbm import PCBMSettings
from spade_xai.lottery.sections import verdict
from spade_xai.lottery.settings import bank_of, settings_of, training_of
from spade_xai.lottery.stages import concepts_stage, pcbm_stage
from spade_xai.lottery.storage import RunError, read_json, read_state
from spade_xai.lottery.ticket_sections import course


@pytest.fixture
def run_command(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def test_estimates_leave_out_what_is_no_number():
    values = torch.tensor([1.0, torch.nan, 3.0])
    assert estimate(values) == {"mean": 2.0, "standard_error": 1.0, "n": 2}
    assert estimate([torch.nan])["mean"] is None
    assert estimate([2.0])["standard_error"] is None and "cannot tell" in verdict(estimate([2.0]))
    assert difference(values, torch.tensor([0.0, 1.0, 2.0]))["mean"] == 1.0
    assert "two standard errors of none" in verdict({"mean": 1.0, "standard_error": 0.5})
    assert "more than two" in verdict({"mean": -1.01, "standard_error": 0.5})
    assert "cannot tell" in verdict({"mean": 1.0, "standard_error": None})


def test_record_has_ceiling_floor_and_ticket_0_with_itself(finished_run):
    record = collect(finished_run)
    rows = {(r["number"], r["measure"]): r for r in record["stability"]}
    assert rows[0, "overlap"]["mean"] == pytest.approx(1) and rows[0, "overlap"]["n"] == 6
    assert rows[2, "overlap"]["mean"] < 1 and rows[2, "overlap"]["seeds"] == 2
    references = record["stability_references"]
    assert {"other seed", "other bank", "random rows"} <= set(references)
    assert (
        references["random rows"]["overlap"]["mean"] < references["other bank"]["overlap"]["mean"]
    )
    assert record["drift_references"]["other seed"]["cosine"]["n"] == len(finished_run.data.test)
    first = record["top_concepts"][0]
    assert len(first["concepts"]) == 3 and first["in_dense"] == [True] * 3
    assert {t["number"] for t in record["tickets"]} == {0, 1, 2}
    assert all(0 <= t["pcbm_h_accuracy"] <= 1 for t in record["tickets"])
    labels = finished_run.data.test.labels
    for ticket in record["tickets"]:
        arm = finished_run.arm(ticket["arm"], ticket["seed"])
        file = arm.file("logits", ticket["number"], "safetensors")
        logits = read_state(file, "logits")[0]["test"]
        expected = roc_auc_score(labels, logits.double().softmax(1), multi_class="ovr")
        assert ticket["test_auroc"] == pytest.approx(expected)


def test_report_is_one_page_with_its_figures_as_files(finished_run, tmp_path):
    record = rp.write_report(finished_run, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert "This is a correlation" not in page  # of two pruned tickets none is computed
    assert read_json(tmp_path / "r.json", "report") == record
    with (tmp_path / "r-tickets.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][:4] == ["arm", "seed", "ticket", "alive"] and len(rows) == 7
    names = {p.name for p in tmp_path.iterdir()}
    assert {
        "r-drift.csv",
        "r-stability.csv",
        "r-concepts.csv",
        "r-banks.csv",
        "r-shortcut.csv",
    } < names
    text = (tmp_path / "r.md").read_text()
    assert "| class | dense |" in text and "± " in text
    assert len(re.findall(r"^## ", text, re.M)) == 6


def test_report_of_tickets_alone(own_run, tmp_path):
    for name in ("concepts", "pcbm", "maps"):
        (own_run.path / f"{name}.json").unlink()
    rp.write_report(own_run, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Does a sparse network" in page and "What do the tickets look at" not in page


def test_banks_and_bottlenecks_of_other_settings_are_not_mixed(own_run):
    concepts_stage(own_run, "shapes", bank_of("shapes", count=10), limit=5)
    with pytest.raises(RunError, match="missing or of other settings"):
        collect(own_run)  # bottlenecks of eight concepts beside banks of five
    own_run.arm("magnitude", 0).file("bank", 1, "safetensors").unlink()
    with pytest.raises(RunError, match="missing or of other concepts"):
        pcbm_stage(own_run, PCBMSettings(epochs=3))


def test_compare_a_run_with_itself_and_tell_slopes_apart(own_run):
    record = compare(own_run, Run.open(own_run.path))
    assert record["difference"] == 0 and record["p"] == 1
    assert record["first"]["chance"] == pytest.approx(0.259, abs=1e-3)
    low, high = record["first"]["interval"]
    assert low <= record["first"]["slope"] <= high
    rng = np.random.default_rng(0)
    assert permutation_p(np.arange(8.0), np.arange(8.0) + 20, rng) < 0.01
    page = own_run.path / "r.html"
    rp.write_report(own_run, page)
    assert "Do concepts last longer in one domain?" in page.read_text()


def test_settings_of_the_paper():
    cub, ham = settings_of("cub"), settings_of("ham10000")
    assert (cub["size"], cub["epochs"], cub["rounds"], cub["share"]) == (448, 60, 15, 0.1)
    assert (ham["size"], ham["first_epochs"], ham["bank"]["penalties"]) == (299, 2, [0.01])
    assert training_of("ham10000").epochs_of(0) == 2 and training_of("ham10000").epochs_of(1) == 50
    birds = ["001.Black_footed_Albatross", "002.Other", "107.Least_Auklet"]
    assert chosen_classes(birds) == [birds[0], birds[2]]
    with pytest.raises(ValueError, match="data must be one of cub"):
        settings_of("imagenet")


def test_the_whole_study_by_one_command(run_command, tmp_path):
    """`all` in a small form: known concepts lead their class, and the planted shortcut vanishes.

    It leads its class in every dense network. With an eighth of the channels left no direction tells it any more.
    """
    out = tmp_path / "run"
    code, text, _ = run_command(
        "lottery", "all", "shapes", "-o", out, "--quick", "--seed", 0, "--seed", 1
    )
    assert code == 0
    assert text.splitlines()[-1] == str(out / "report.html")
    assert "weight 0 equals the plain ticket bit for bit" in text
    record = read_json(out / "report.json", "report")
    assert {"difficulty", "regularize", "shortcut", "stability", "drift"} <= set(record)
    dense = [r for r in record["top_concepts"] if r["number"] == 0 and r["arm"] == "magnitude"]
    own = [len(set(r["class"].split()) & set(r["concepts"])) for r in dense]
    # Two or three of eight concepts are a class's own: by chance 0.94 of the leading three are.
    assert sum(own) / len(own) > 1.3
    mark = {(r["arm"], r["seed"], r["number"]): r for r in record["shortcut"]}
    assert mark["magnitude", 0, 0]["shows"] and mark["magnitude", 1, 0]["shows"]
    assert mark["structured", 0, 0]["shows"] and not mark["structured", 0, 3]["shows"]
    assert re.search(
        r"tickets of structured: seed 0, (vanishes at|comes and goes.*gone at the end)", text
    )
    assert all("first_class_gain_by_mark" in r for r in record["shortcut"])


def test_course_of_the_shortcut():
    def told(*shows):
        return course(dict(enumerate(map(bool, shows))))

    assert told(1, 1, 1) == "in every ticket" and told(0, 0) == "in none"
    assert told(1, 1, 0) == "vanishes at ticket 2" and told(0, 1, 1) == "appears at ticket 1"
    assert told(1, 0, 1) == "comes and goes, in tickets 0, 2; there at the end"
    assert told(0, 1, 0, 0) == "comes and goes, in tickets 1; gone at the end"


def test_commands_one_by_one(run_command, own_run):
    path = own_run.path
    commands = [
        ("concepts", path, "--bank", "shapes", "--count", 20),
        ("pcbm", path, "--standardize"),
        ("maps", path, "--limit", 6),
        ("tcav", path, "--limit", 4),
        ("difficulty", path),
        ("compare", path, path),
        ("report", path, "--json"),
    ]
    for name, *arguments in commands:
        code, text, error = run_command("lottery", name, *arguments)
        assert code == 0, error
    record = json.loads(text)
    assert {"tcav", "difficulty", "compare"} <= set(record)
    assert Path(path / "report.html").is_file()
    assert {
        r["n"]
        for r in difficulty(own_run)["rows"]
        if (r["explanation"], r["pictures"]) == ("maps", "all")
    } == {6}


def test_mistakes_are_told_in_one_line(run_command, tmp_path, own_run):
    cases = [
        (["find", "cub", "-o", tmp_path / "a"], "cub must be given its folder"),
        (["find", "cub", tmp_path / "none", "-o", tmp_path / "a"], "no folder"),
        (["find", "shapes", tmp_path, "-o", tmp_path / "a"], "shapes must have no folder"),
        (["report", tmp_path], "no file"),
        (["pcbm", own_run.path, "--solver", "x"], "solver must be one of"),
        (["concepts", own_run.path, "--bank", tmp_path / "none"], "no folder"),
        (["all", "cub", "-o", tmp_path / "a"], "data must be shapes"),
        (["find", "shapes", "-o", own_run.path], "run of other data"),
    ]
    for arguments, text in cases:
        code, _, error = run_command("lottery", *arguments)
        told = [line for line in error.splitlines() if not line.endswith("starting")]
        assert code == 1 and len(told) == 1 and text in told[0], error


def test_shortcut_follows_the_mark(finished_run):
    """What is planted on a picture is the mark that training pictures carry."""
    plain = finished_run.data.test.subset([0, 1, 2])
    marked = shapes.with_mark(plain)
    changed = (marked.images != plain.images).any(1).flatten(1).sum(1)
    assert ((changed > 0) & (changed <= 36)).all()
    yellow = torch.tensor([255, 242, 26], dtype=torch.uint8)
    at = (marked.images == yellow.view(1, 3, 1, 1)).all(1).flatten(1).sum(1)
    before = (plain.images == yellow.view(1, 3, 1, 1)).all(1).flatten(1).sum(1)
    assert (at - before == 32).all()
