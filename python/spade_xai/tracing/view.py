"""How a trace looks: in a few lines, as HTML for notebooks, and as a figure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spade_xai.models.inputs import device_of, first_tensor
from spade_xai.models.modes import outside_inference_mode
from spade_xai.tracing.layer_report import LayerReport
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.verdict import Verdict

if TYPE_CHECKING:
    from spade_xai.reports.figure import Picture

PRUNED = ("pruned", "damped")


def in_lines(
    settings: Mapping[str, Any],
    layers: Sequence[LayerReport],
    verdict: Verdict | None,
    timings: Mapping[str, float],
) -> list[str]:
    """What a trace is, in at most six lines."""
    word = "not judged" if verdict is None else "faithful" if verdict.faithful else "NOT FAITHFUL"
    lines = [f"Trace by {settings['method']}, {settings['augmentations']} augmentations: {word}"]
    if verdict is not None:
        lines.append(
            f"  answers class {verdict.answer} with {verdict.probability:.2f}; the dense model class "
            f"{verdict.dense_answer} with {verdict.dense_probability:.2f}"
        )
        if not verdict.faithful:
            lines.append(f"  {'; '.join(verdict.reasons)}")
    pruned = [x for x in layers if x.status in PRUNED]
    if pruned:
        weights = sum(x.rows * x.cols for x in pruned)
        zeros = sum(x.rows * x.cols * x.sparsity_got for x in pruned)
        least, most = (f(pruned, key=lambda x: x.sparsity_got) for f in (min, max))
        lines.append(
            f"  {zeros / max(1, weights):.0%} zeros in {len(pruned)} layers, from {least.sparsity_got:.0%} "
            f"({least.name}) to {most.sparsity_got:.0%} ({most.name})"
        )
    left = Counter(x.status for x in layers if x.status not in PRUNED)
    if left:
        counted = ", ".join(f"{count} {status}" for status, count in left.items())
        lines.append(f"  layers left dense: {counted}; .layers has the reasons")
    lines.append(f"  {sum(timings.values()):.1f} s")
    return lines


def as_html(lines: Sequence[str], layers: Sequence[LayerReport]) -> str:
    """The lines, and a folded table of the layers."""
    head, *rest = (escape(line.strip()) for line in lines)
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(x.name)}</td><td>{x.rows} x {x.cols}</td>"
        f"<td><meter value='{x.sparsity_got:.3f}'></meter> {x.sparsity_got:.0%}</td>"
        f"<td>{x.relative_loss:.1e}</td>"
        f"<td style='text-align:left'>{escape(x.status + (': ' + x.reason if x.reason else ''))}</td></tr>"
        for x in layers
    )
    names = ("layer", "weights", "zeros", "relative loss", "status")
    return (
        f"<b>{head}</b><br>{'<br>'.join(rest)}<details><summary>{len(layers)} layers</summary><table>"
        f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{rows}</table></details>"
    )


def image_of(source: TracedSample | None) -> Tensor | None:
    """The sample, if it is an image [1, 1 or 3, H, W]; otherwise None."""
    if source is None:
        return None
    x = first_tensor(source.inputs)
    is_image = x.is_floating_point() and x.ndim == 4 and x.shape[1] in (1, 3) and len(x) == 1
    return x if is_image and min(x.shape[2:]) > 1 else None


def figure_of_trace(
    dense: nn.Module,
    sparse: nn.Module,
    layers: Sequence[LayerReport],
    image: Tensor | None,
    method: str,
    target: int | None,
) -> "Picture":
    """The maps of both models with their difference, where the sample is an image, and each layer's sparsity."""
    from spade_xai.attribution.attribute import attribute, pixel_map
    from spade_xai.reports import heatmap
    from spade_xai.reports.chart import draw_sparsity, sparsity_chart
    from spade_xai.reports.figure import figure_of

    if image is None:
        return sparsity_chart({"trace": layers})
    figure = figure_of(10.0, 6.2)
    places = figure.add_gridspec(2, 4, height_ratios=[1.2, 1])
    with outside_inference_mode():
        maps = []
        for model in (dense, sparse):
            x = image.detach().clone().to(device_of(model))
            found = attribute(model, x, target, method, progress=False)  # type: ignore[arg-type]
            maps.append(heatmap.scaled(pixel_map(found, method)[0]))
            target = _answer(model, x) if target is None else target
    low, high = image.min(), image.max()
    picture = (image[0].cpu() - low.cpu()) / (high - low).cpu().clamp_min(1e-12)
    picture = picture.expand(3, *picture.shape[1:])
    signed = heatmap.is_signed(method, maps[0])
    change, _ = heatmap.difference(maps[1], maps[0])
    panels = [
        ("sample", picture.permute(1, 2, 0).numpy()),
        (f"{method}, dense", heatmap.overlaid(picture, maps[0], signed)),
        (f"{method}, trace", heatmap.overlaid(picture, maps[1], signed)),
        ("trace - dense", heatmap.overlaid(picture, change, True)),
    ]
    for place, (name, pixels) in enumerate(panels):
        axis = figure.add_subplot(places[0, place])
        axis.imshow(pixels)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    draw_sparsity(figure.add_subplot(places[1, :]), {"trace": layers})
    return figure


def _answer(model: nn.Module, x: Tensor) -> int:
    from spade_xai.attribution.forward import Forward, targets

    return int(targets(Forward(model, {}, 1), x, None, 1))
