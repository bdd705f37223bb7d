"""What a report says of maps: a film strip over tickets, and how far they move."""

from typing import Any

from spade_xai.lottery import figures as fg
from spade_xai.lottery.folder import Run
from spade_xai.lottery.sections import (
    Section,
    Table,
    last_number,
    main_arms,
    number,
    picture,
    row_of,
    verdict,
)


def film(record: dict[str, Any], run: Run) -> Section:
    """Grad-CAM of some pictures over tickets (the paper's Figure 8)."""
    settings = record["maps"]["settings"]
    available = settings["limit"] or len(run.data.test)
    chosen = fg.default_pictures(run, min(available, len(run.data.test)))
    figure = fg.film_strip(run, record["maps"]["key"], chosen)
    text = (
        f"Maps ({settings['method']}) of the picture's own class, for the same pictures from dense to sparse. The "
        "white line is the paper's mask, above 0.75 of the maximum."
    )
    return Section(
        "What do the tickets look at?", [text], [picture(figure, "Maps of pictures over tickets")]
    )


def drift(record: dict[str, Any]) -> Section:
    """How far maps move, with the other seed and another picture to compare with."""
    arms, references = main_arms(record), record["drift_references"]
    first = arms[0]
    levels = {
        {"other seed": "dense, other seed", "other picture": "another picture"}[name]: values[
            "iou_threshold"
        ]["mean"]
        for name, values in references.items()
    }
    series = fg.row_series(record, "drift", "drift/iou_threshold", arms)
    figure = fg.curves(series, "IoU of the 0.75 masks", levels)
    last = last_number(record, first)
    row = row_of(record, "drift", first, last, "drift/iou_threshold")
    zero = row_of(record, "drift", first, last, "drift/zero")
    says = [
        f"At the sparsest ticket of {first} the masks share {number(row)} of their pixels with the dense network's "
        "(IoU; n counts pictures)."
    ]
    if "minus_other_seed" in row:
        change = row["minus_other_seed"]
        says.append(
            f"Two dense networks of different seeds share {number(references['other seed']['iou_threshold'])}: "
            f"the ticket differs from that by {number(change)}, {verdict(change)}. "
            "That level is what training alone changes."
        )
    says.append(f"Share of maps that are zero everywhere, at this ticket or dense: {number(zero)}.")
    rows = [
        [r["arm"], str(r["number"]), r["measure"], number(r), number(r.get("minus_other_seed"))]
        for r in record["drift"]
    ]
    rows += [["reference", "-", m, number(v), f"({name})"] for name, values in references.items()
             for m, v in values.items()]  # fmt: skip
    table = Table(
        "All measures of maps",
        ["arm", "ticket", "measure", "mean", "minus other seed"],
        rows,
        "drift",
    )
    return Section("How far do the maps move?", says, [picture(figure, "Drift of maps")], [table])
