"""What a neuron responds to in the dense model and in the traces of images: pictures side by side (Figure 2)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from spade_xai.features.confidence import confidence
from spade_xai.features.visualize import visualize
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress
from spade_xai.reports.answers import class_name
from spade_xai.reports.explain import check_tracers, short_fidelity
from spade_xai.reports.figure import embedded, figure_of
from spade_xai.reports.page import render
from spade_xai.tracing.fidelity import Fidelity
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.trace import trace
from spade_xai.trojans.trojan import predictions


@dataclass
class Facet:
    """One visualisation of the neuron.

    Attributes:
        name: "dense", or that of the image whose trace was visualised.
        picture: That image, [3, H, W]; None for the dense model.
        found: The visualisations, [B, 3, H, W] in (0, 1).
        confidence: Mean probability that the dense model gives the class on the visualisations seen through other
            random transforms; None where the neuron is not a class.
        answers: The answers of the dense and of the sparse model on the picture; None for the dense model.
        fidelity: The fidelity of the trace; None for the dense model.
    """

    name: str
    picture: Tensor | None
    found: Tensor
    confidence: float | None
    answers: tuple[int, int] | None = None
    fidelity: Fidelity | None = None


def facets(
    model: nn.Module,
    samples: Iterable[tuple[str, Tensor, Tensor]],
    neuron: int,
    shape: Sequence[int],
    *,
    layer: str | None = None,
    tracer: str = "SPADE",
    count: int = 1,
    preprocessing: Preprocessing | None = None,
    visualization: dict[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = True,
    report: Callable[[str], object] | None = None,
    **trace_options: Any,
) -> list[Facet]:
    """Visualise a neuron in the dense model and in the trace of each image.

    Args:
        model: Classifier. Not modified.
        samples: Name, picture [3, H, W] in [0, 1], and the same as the model takes it, [1, 3, H, W].
        neuron: As in `visualize`.
        shape: The shape of one visualisation, (3, H, W).
        layer: As in `visualize`.
        tracer: Name in TRACERS.
        count: Visualisations of each model, from different starts.
        preprocessing: Whose mean and std make the model's inputs of images in [0, 1]; None: it takes those.
        visualization: Further arguments of `visualize`.
        seed: The seed of augmentations and visualisations.
        progress: True for bars, or callback(stage, done, total).
        report: Called with a line as each step begins.
        **trace_options: Further arguments of `trace`.
    """
    check_tracers("facets", [tracer])
    known = preprocessing or Preprocessing()
    scaling: dict[str, Any] = {"mean": known.mean, "std": known.std}

    def found(of: nn.Module) -> tuple[Tensor, float | None]:
        made = visualize(
            of, neuron, shape, layer=layer, batch=count, seed=seed, progress=progress, **scaling,
            **(visualization or {}),
        )  # fmt: skip
        if layer is not None:
            return made, None
        return made, float(confidence(model, made, neuron, seed=seed + 1, **scaling).mean())

    def say(line: str) -> None:
        if report is not None:
            report(line)

    say("visualising the dense model's neuron")
    results = [Facet("dense", None, *found(model))]
    for name, picture, x in samples:
        say(f"{tracer} of {name}")
        made = trace(
            model, x, method=TRACERS[tracer], seed=seed, progress=progress, **trace_options
        )
        say(f"visualising the neuron in the trace of {name}")
        answers = int(predictions(model, x)), int(predictions(made.model, x))
        results.append(Facet(name, picture, *found(made.model), answers, short_fidelity(made)))
    return results


def facet_figure(facet: Facet) -> Figure:
    """The picture, if there is one, and the visualisations beside it."""
    shown = [] if facet.picture is None else [facet.picture]
    shown += list(facet.found)
    figure = figure_of(2.4 * len(shown), 2.4)
    for axis, image in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy())
        axis.set_axis_off()
    return figure


def facet_page(
    results: Sequence[Facet],
    neuron: str,
    *,
    tracer: str,
    classes: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """A page of all visualisations that needs no other file and no network.

    Args:
        results: What `facets` gave.
        neuron: How to call the neuron.
        tracer: How the traces were made.
        classes: Names of the model's classes.
        notes: Sentences at the end.
    """
    sections = [
        {
            "name": facet.name,
            "figure": embedded(facet_figure(facet)),
            "confidence": facet.confidence,
            "answers": facet.answers and [class_name(classes, k) for k in facet.answers],
            "reasons": facet.fidelity.reasons if facet.fidelity else (),
        }
        for facet in results
    ]
    return render("facets.html", neuron=neuron, tracer=tracer, sections=sections, notes=notes)
