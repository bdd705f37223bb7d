"""Which image's trace is the control of which image."""

from hypothesis import given
from hypothesis import strategies as st

from spade_xai.reports.controls import controls_of, partners

ANSWERS = st.lists(st.integers(0, 4), min_size=2, max_size=12)


@given(ANSWERS)
def test_every_image_is_the_partner_of_one_other(answers):
    found = partners(answers)
    assert sorted(found) == list(range(len(answers)))
    assert all(k != other for k, other in enumerate(found))
    most = max(answers.count(a) for a in answers)
    equal = sum(answers[k] == answers[other] for k, other in enumerate(found))
    assert equal == max(0, 2 * most - len(answers))


@given(ANSWERS, ANSWERS)
def test_controls_have_another_answer_where_there_is_one(answers, others):
    for answer, place in zip(answers, controls_of(answers, others), strict=True):
        assert others[place] != answer or set(others) == {answer}


def test_equal_images_take_turns():
    assert controls_of([1, 1, 1], [2, 2]) == [0, 1, 0]
