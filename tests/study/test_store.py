"""Answers on the disk: one per task, in turn, whoever sends what how often."""

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_study import some_study

from spade_xai.study import store as module
from spade_xai.study.store import OutOfTurn, Store


@pytest.fixture
def study(tmp_path):
    return some_study(tmp_path / "s")


@pytest.fixture
def store(tmp_path, study):
    opened = Store(tmp_path / "answers.sqlite", study)
    yield opened
    opened.close()


def task_at(study, session):
    return study.tasks[study.lists[session.list][session.position].task].id


def test_answers_in_turn_and_once(store, study):
    _, token = store.start()
    for _ in range(len(study.lists[0])):
        now = store.session(token)
        for choice in ("left", "right"):  # the second comes late and changes nothing
            after = store.answer(token, now.position, task_at(study, now), choice, 1200)
            assert after.position == now.position + 1
    kept = store.answers()
    assert [a.position for a in kept] == list(range(5)) and {a.choice for a in kept} == {"left"}
    with pytest.raises(OutOfTurn, match="the next task is 5, got 5"):
        store.answer(token, 5, "task", "left", 1)


@pytest.mark.parametrize(
    ("position", "task", "message"),
    [
        (1, None, "the next task is 0, got 1"),
        (-1, None, "got -1"),
        (0, "other", "another than 'other'"),
    ],
)
def test_answers_out_of_turn_are_refused(store, study, position, task, message):
    session, token = store.start()
    with pytest.raises(OutOfTurn, match=message):
        store.answer(token, position, task or task_at(study, session), "left", 1)
    assert store.answers() == []


def test_nobody_else_has_a_token(store, study, tmp_path):
    session, token = store.start()
    assert store.session("wrong") is None
    assert store.answer("wrong", 0, task_at(study, session), "left", 1) is None
    data = b"".join(p.read_bytes() for p in tmp_path.glob("answers.sqlite*"))
    assert session.rater.encode() in data and token.encode() not in data


def test_lists_are_used_equally_and_those_who_left_do_not_count(store, study, monkeypatch):
    sessions = [store.start()[0] for _ in range(2 * len(study.lists))]
    assert set(Counter(s.list for s in sessions).values()) == {2}
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 2 * module.ABANDONED)
    assert store.start()[0].list == 0  # all of list 0 have left, as of every other list
    assert store.start()[0].list == 1


def test_many_at_once_lose_nothing(store, study):
    def work(_):
        session, token = store.start()
        for position in range(len(study.lists[0])):
            now = store.session(token)
            for _ in range(2):
                store.answer(token, position, task_at(study, now), "both", position)
        return session.rater

    with ThreadPoolExecutor(8) as pool:
        raters = list(pool.map(work, range(16)))
    kept = store.answers()
    assert Counter(a.rater for a in kept) == dict.fromkeys(raters, 5) and len(set(raters)) == 16


def test_a_rater_can_be_deleted_without_a_trace(store, study, tmp_path):
    (first, token), (second, other) = store.start(), store.start()
    store.answer(token, 0, task_at(study, first), "left", 1)
    store.answer(other, 0, task_at(study, second), "left", 1)
    assert store.delete(first.rater) == 1 and store.delete(first.rater) == 0
    assert [a.rater for a in store.answers()] == [second.rater] and store.session(token) is None
    data = b"".join(p.read_bytes() for p in tmp_path.glob("answers.sqlite*"))
    assert first.rater.encode() not in data


def test_answers_of_another_study_are_refused(store, tmp_path):
    other = some_study(tmp_path / "t", images=6)
    with pytest.raises(ValueError, match="holds the answers of study"):
        Store(tmp_path / "answers.sqlite", other)


def test_the_file_is_in_wal_mode_and_synchronous(store, tmp_path):
    file = sqlite3.connect(tmp_path / "answers.sqlite")
    assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
