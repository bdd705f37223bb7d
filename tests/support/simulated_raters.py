"""Raters with known accuracies: answers as a study gives them, drawn from a model of raters and images."""

import numpy as np

from spade_xai.study.answers import Answer
from spade_xai.study.assignment import assign


def simulate(success, undecided, *, raters, images, tasks, spread=(0.0, 0.0), repeats=0, seed=0):
    """Answers of raters of one study.

    Args:
        success: P(agree) without and with SPADE.
        undecided: P(undecided) without and with SPADE.
        raters: How many.
        images: How many.
        tasks: Per rater.
        spread: Standard deviations of the success of raters and of images, both in P(agree).
        repeats: Repeated tasks per rater.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    lists = assign(
        [[2 * k, 2 * k + 1] for k in range(images)], tasks=tasks, repeats=repeats, seed=seed
    )
    of_rater = rng.normal(0, spread[0], raters)
    of_image = rng.normal(0, spread[1], images)
    answers = []
    for r in range(raters):
        for position, slot in enumerate(lists[r % len(lists)]):
            image, spade = divmod(slot.task, 2)
            agree = np.clip(success[spade] + of_rater[r] + of_image[image], 0, 1 - undecided[spade])
            draw = rng.random()
            outcome = "agree" if draw < agree else "undecided"
            if draw >= agree + undecided[spade]:
                outcome = "disagree"
            choice = "neither"
            if outcome != "undecided":
                choice = "left" if (outcome == "agree") == slot.target_left else "right"
            answers.append(
                Answer(
                    f"r{r}", image, f"t{slot.task}", ("dense", "SPADE")[spade], 0, choice, outcome,
                    float(rng.exponential(5) + 1), position, slot.repeat,
                )
            )  # fmt: skip
    return answers
