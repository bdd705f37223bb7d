"""The report's files: the same numbers in HTML, CSV and JSON, warnings, and the command."""

import csv
import json

import pytest
from simulated_raters import simulate
from small_study import some_study, write_study

from spade_xai.cli import main
from spade_xai.study.answers import FORMAT, read_answers
from spade_xai.study.intervals import Interval
from spade_xai.study.report import FILES, percent, write_report
from spade_xai.study.store import Store


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main(["study", *map(str, arguments)])
        out, err = capsys.readouterr()
        return exit.value.code or 0, out, err

    return call


def answered(folder, study, raters=10):
    """Raters who press left."""
    store = Store(folder / "answers.sqlite", study)
    for _ in range(raters):
        session, token = store.start()
        for position, slot in enumerate(study.lists[session.list]):
            store.answer(token, position, study.tasks[slot.task].id, "left", 1500)
    store.close()


def test_files_agree(tmp_path):
    study = some_study(tmp_path / "s", images=20)
    answers = simulate((0.5, 0.7), (0.2, 0.1), raters=12, images=20, tasks=20, repeats=2)
    report = write_report(tmp_path / "out", study, answers, draws=100)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES)
    with (tmp_path / "out" / "table4.csv").open() as file:
        rows = {row["response"]: row for row in csv.DictReader(file)}
    value = json.loads((tmp_path / "out" / "report.json").read_text())
    assert value["format"] == "spade_xai.StudyReport.1" and value["answers"] == 240
    page = (tmp_path / "out" / "report.html").read_text()
    for row, entry in zip(report.table, value["table"], strict=True):
        assert float(rows[row.name]["spade"]) == pytest.approx(row.spade.estimate, rel=1e-4)
        assert entry["spade"]["estimate"] == pytest.approx(row.spade.estimate)
        assert percent(row.spade) in page
    with (tmp_path / "out" / "answers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(answers)
    with (tmp_path / "out" / "raters.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    assert "<img" in page and "too few" not in page
    assert 'src="http' not in page


def test_200_raters_through_the_pages_files(tmp_path):
    """What raters pressed, read back from files: the lists, sides and tasks of the study give the known accuracies."""
    study = some_study(tmp_path / "s", images=100, tasks=32, repeats=2, seed=7)
    given = simulate(
        (0.567, 0.698), (0.229, 0.126), raters=200, images=100, tasks=32, repeats=2, seed=7
    )
    files: dict[str, dict] = {}
    for answer in given:
        number = int(answer.rater[1:]) % len(study.lists)
        slot = study.lists[number][answer.position]
        entry = {
            "format": FORMAT,
            "study": study.id,
            "list": number,
            "rater": answer.rater,
            "answers": [],
        }
        files.setdefault(answer.rater, entry)["answers"].append(
            {
                "position": answer.position, "task": study.tasks[slot.task].id, "choice": answer.choice,
                "milliseconds": round(1000 * answer.seconds),
            }
        )  # fmt: skip
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(list(files.values())))
    answers = read_answers(tmp_path / "s", study, [path])
    assert [a.outcome for a in answers] == [a.outcome for a in given]
    report = write_report(tmp_path / "out", study, answers, draws=100)
    for row in report.table:
        found = (100 * row.dense.estimate, 100 * row.spade.estimate)
        assert found == pytest.approx(row.published, abs=3)


def test_without_answers(tmp_path):
    study = some_study(tmp_path / "s")
    write_report(tmp_path / "out", study, [], draws=100)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no answers under both conditions yet" in page and "nan" not in page.lower()
    assert "NaN" not in (tmp_path / "out" / "report.json").read_text()


def test_percent():
    assert percent(Interval(0.5, 0.42, 0.58, 0.04, 10)) == "50.0 % (42.0 to 58.0)"
    assert percent(Interval(0.98, 0.9, 1.06, 0.04, 10)) == "98.0 % (90.0 to 100.0)"
    assert percent(Interval(0.1, -0.1, 0.3, 0.1, 10), True) == "+10.0 points (-10.0 to +30.0)"


def test_the_command(run, tmp_path):
    folder = tmp_path / "s"
    study = write_study(folder, some_study(folder))
    answered(folder, study)
    code, out, _ = run("report", folder, "--draws", 100, "--until-width", "0.01")
    assert code == 0 and "10 raters gave 40 answers" in out and "Overall success" in out
    assert "raters in all are needed" in out
    assert (folder / "report" / "report.html").is_file()
    code, out, _ = run("report", folder, "--draws", 100, "--json")
    assert code == 0 and len(json.loads(out)["raters"]) == 10
    (folder / "report" / "report.html").write_text("mine")
    code, _, err = run("report", folder)
    assert code == 1 and "was not written by spade-xai" in err


def test_a_rater_is_deleted_by_code(run, tmp_path):
    folder = tmp_path / "s"
    study = write_study(folder, some_study(folder))
    answered(folder, study, 2)
    store = Store(folder / "answers.sqlite", study)
    code = store.answers()[0].rater
    store.close()
    assert run("delete", folder, code)[:2] == (0, f"{code}: deleted\n")
    assert "1 raters gave" in run("report", folder, "--draws", 100)[1]
    status, _, err = run("delete", folder, code)
    assert status == 1 and f"no rater {code}" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "none"], "no file none/study.json"),
        (["serve", "none"], "no file none/study.json"),
        (["power", "--dense", "1.5"], "dense must be in"),
        (["power", "--tasks", "3"], "tasks must be even"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 1 and message in err


def test_power(run):
    code, out, _ = run(
        "power", "--raters", 10, "--images", 20, "--tasks", 10, "--studies", 20, "--json"
    )
    (size,) = json.loads(out)["sizes"]
    assert code == 0 and size["raters"] == 10 and size["answers"] == 100
