"""Answers of files, and what they mean."""

import json

import pytest
from small_study import some_study

from spade_xai.study.answers import FORMAT, read_answers


@pytest.fixture
def study(tmp_path):
    return some_study(tmp_path / "s")


def result(study, number=0, choice="left", rater="abc", **changed):
    answers = [
        {"position": k, "task": study.tasks[slot.task].id, "choice": choice, "milliseconds": 1000 + k}
        for k, slot in enumerate(study.lists[number])
    ]  # fmt: skip
    return {
        "format": FORMAT,
        "study": study.id,
        "list": number,
        "rater": rater,
        "answers": answers,
        **changed,
    }


def written(tmp_path, value):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(value))
    return path


def test_what_answers_mean(study, tmp_path):
    files = [result(study, choice=c, rater=c) for c in ("left", "right", "both", "neither")]
    answers = read_answers(tmp_path / "s", study, [written(tmp_path, files)])
    assert len(answers) == 20
    for answer in answers:
        slot = study.lists[0][answer.position]
        task = study.tasks[slot.task]
        assert (answer.task, answer.image, answer.condition) == (
            task.id,
            task.image,
            task.condition,
        )
        assert answer.repeat == slot.repeat and answer.seconds == (1000 + answer.position) / 1000
        shown = study.shown(slot)
        right = study.images[task.image].regions[task.neuron]
        if answer.choice in ("left", "right"):
            assert (answer.outcome == "agree") == (shown[answer.choice] == right)
            assert answer.outcome in ("agree", "disagree")
        else:
            assert answer.outcome == "undecided"


def test_a_part_of_a_list_counts(study, tmp_path):
    value = result(study)
    value["answers"] = value["answers"][:2]
    assert len(read_answers(tmp_path / "s", study, [written(tmp_path, value)])) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format="other"), "must hold answers of the format"),
        (lambda v: v.update(study="other"), "holds answers to study other, not to"),
        (lambda v: v.update(list=10**6), "is damaged"),
        (lambda v: v.update(list=-1), "is damaged"),
        (lambda v: v["answers"].append(v["answers"][0]), "is damaged"),
        (lambda v: v["answers"][1].update(task="other"), "is damaged"),
        (lambda v: v["answers"][1].update(choice="up"), "is damaged"),
        (lambda v: v["answers"][1].update(milliseconds=-5), "is damaged"),
        (lambda v: v.pop("rater"), "is damaged"),
    ],
)
def test_files_that_are_none(study, tmp_path, change, message):
    value = result(study)
    change(value)
    with pytest.raises(ValueError, match=message):
        read_answers(tmp_path / "s", study, [written(tmp_path, value)])


def test_text_that_is_no_json(study, tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json must be JSON"):
        read_answers(tmp_path / "s", study, [tmp_path / "x.json"])


def test_one_rater_with_two_answers_to_a_task(study, tmp_path):
    files = [result(study, choice="left"), result(study, choice="right")]
    with pytest.raises(ValueError, match="rater abc has two answers to task 0"):
        read_answers(tmp_path / "s", study, [written(tmp_path, files)])
