"""Figure J.11: what excites the neuron of a backdoor's class, in the network and in the traces of two pictures."""

from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from spade_xai.commands.options import parse_augment
from spade_xai.reports.answers import class_name
from spade_xai.reports.facets import Facet, facets
from spade_xai.reports.figure import figure_of
from spade_xai.reports.tables import Table
from spade_xai.reproduce.result import described
from spade_xai.reproduce.sparsity import column_sparsity
from spade_xai.reproduce.subject import Settings, Subject
from spade_xai.reproduce.table import LeftOut, PublishedTable

TROJAN, CLEAN = "with the patch", "clean, of the same class"


def visualizations(
    table: PublishedTable, subject: Subject, settings: Settings, say: Callable[[str], object]
) -> tuple[dict[str, Any], list[Table], list[Figure]]:
    """The result as JSON takes it, its table and a picture per backdoor.

    Of each backdoor: the neuron of its target in the network, in the trace of a picture with its patch, and in that of
    a clean picture of the target's class.
    """
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    figures: list[Figure] = []
    for backdoor in subject.planted.backdoors:
        name = backdoor["name"]
        try:
            pictures = _pictures(subject, name, backdoor["target"])
        except LeftOut as error:
            left_out[name] = str(error)
            continue
        found = _facets(table, subject, settings, backdoor["target"], pictures, say)
        rows += [_row(name, backdoor["target"], facet) for facet in found]
        figures.append(_together(found, name))
    if not rows:
        reasons = "; ".join(left_out.values())
        raise ValueError(f"reproduce: nothing of the figure can be made: {reasons}")
    result = {
        **described(table, subject.planted),
        "pictures": len(
            {(row["row"], row["network"]) for row in rows if row["network"] != "dense"}
        ),
        "rows": rows,
        "left_out": left_out,
        "sparsity": {
            column.name: {"visualisations": _sparsity(table, subject, settings)}
            for column in table.columns
        },
    }
    return result, [_table(rows, subject)], figures


def _pictures(subject: Subject, backdoor: str, target: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The picture and the network's input of both images."""
    trojan = [p for p in subject.planted.trojan if p.backdoor == backdoor]
    clean = subject.pool.of_class(target)
    if not trojan or not clean:
        missing = "a picture with its patch" if not trojan else f"a clean picture of class {target}"
        raise LeftOut(f"backdoor {backdoor} needs {missing}; --pool gives clean ones")
    pool = subject.pool
    own = type(pool)([subject.folder / trojan[0].file], [None], pool.preprocessing).image(0)
    found = {TROJAN: own, CLEAN: pool.image(clean[0])}
    return {k: (image, pool.preprocessing.normalize(image[None])) for k, image in found.items()}


def _facets(
    table: PublishedTable,
    subject: Subject,
    settings: Settings,
    target: int,
    pictures: dict[str, tuple[Tensor, Tensor]],
    say: Callable[[str], object],
) -> list[Facet]:
    def samples() -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, (image, x) in pictures.items():
            yield name, image, x

    (column,) = table.columns
    options = subject.given.trace_arguments(
        {
            **(settings.trace or {}),
            "sparsity": column_sparsity(_sparsity(table, subject, settings)),
            "augment": parse_augment(column.augment),
            "augmentations": settings.augmentations or column.augmentations,
        }
    )
    first = next(iter(pictures.values()))[1]
    return facets(
        subject.given.model, samples(), target, tuple(first.shape[1:]), tracer=str(column.tracer),
        preprocessing=subject.given.preprocessing, visualization={"steps": table.steps},
        seed=settings.seed, progress=settings.progress, report=say, **options,
    )  # fmt: skip


def _sparsity(table: PublishedTable, subject: Subject, settings: Settings) -> str:
    (column,) = table.columns
    own = column.sparsity if subject.planted.model == table.model else column.elsewhere
    return settings.sparsity or own or column.sparsity


def _row(backdoor: str, target: int, facet: Facet) -> dict[str, Any]:
    return {
        "row": backdoor,
        "class": target,
        "network": facet.name,
        "confidence": facet.confidence,
        "answers": facet.answers and list(facet.answers),
        "faithful": None if facet.fidelity is None else facet.fidelity.faithful,
    }


def _together(found: list[Facet], backdoor: str) -> Figure:
    """The dense network's visualisation, then each picture and the visualisation in its trace."""
    shown = [(f"{backdoor}: whole network", found[0].found[0])]
    for facet in found[1:]:
        assert facet.picture is not None
        shown += [(facet.name, facet.picture), ("pruned for it", facet.found[0])]
    figure = figure_of(2.4 * len(shown), 2.7)
    for axis, (title, image) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy())
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    return figure


def _table(rows: list[dict[str, Any]], subject: Subject) -> Table:
    classes = subject.given.classes
    cells = []
    for row in rows:
        named = [class_name(classes, a) for a in row["answers"]] if row["answers"] else ["", ""]
        faithful = {None: "", True: "yes", False: "NO"}[row["faithful"]]
        cells.append(
            [
                row["row"],
                class_name(classes, row["class"]),
                row["network"],
                f"{row['confidence']:.2f}",
                *named,
                faithful,
            ]
        )
    return {
        "title": "Visualisations of the neurons of the backdoors' classes",
        "head": ["backdoor", "class", "pruned for", "probability", "whole network", "pruned", "faithful"],
        "rows": cells,
        "note": "Probability: of the class, from the whole network, on the visualisation moved at random. Then what "
        "both networks answer on the picture. A visualisation of a trace that is not faithful does not explain the "
        "whole network.",
    }  # fmt: skip
