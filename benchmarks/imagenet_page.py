"""The generated parts of docs/imagenet-study.md: its plain summary, its picture and its tables."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from benchmarks.imagenet_arms import ARMS
from benchmarks.imagenet_summary import AVERAGE, CEILING, ROOM
from benchmarks.imagenet_traces import TRACERS, Traces
from spade_xai.models.efficientnet_lite import imagenet_classes
from spade_xai.reports.explain import image_map

TITLES = {
    "auroc": "AUROC of the patch's pixels, times 100",
    "pointing_game": "Pointing game: maps whose highest pixel lies on the patch, in per cent",
    "insertion": "Insertion on clean photographs, times 100: higher is better",
    "deletion": "Deletion on clean photographs, times 100: lower is better",
}
SHOWN = 4  # photographs in the picture: the first ones


def blocks(
    result: Mapping[str, Any], confirmation: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, str]:
    """All generated text of the page by the name of its markers."""
    return {
        "plain": plain(result),
        "network": network_table(about),
        "measured": measured(result),
        "confirmation": confirmed(confirmation),
        "results": "\n\n".join(
            f"### {ARMS[name].title}\n\n"
            + "\n\n".join(table(arm, metric) for metric in ARMS[name].metrics)
            for name, arm in result["arms"].items()
        ),
        "traces": traces_table(result),
        "reasons": reasons_table(result),
    }


def plain(result: Mapping[str, Any]) -> str:
    """The main results in words."""
    fast = result["arms"]["fast_spade"]
    return "\n".join(
        [
            "A picture carries one of four patches that decide the network's answer. How well does a map find it?",
            "AUROC times 100: 50 is chance, 100 is perfect. Differences are to the dense map of the same picture,",
            *main_table(result),
            "",
            f"Without a trace deep_lift has {_mean(_row(fast, 'deep_lift', 'dense')['mean'])} and lrp "
            f"{_mean(_row(fast, 'lrp', 'dense')['mean'])} on {fast['photographs']} pictures. What only a trace gives: "
            "which",
            "connections decided (see [shared reasons](#shared-reasons)), and a sparse network that any method takes.",
        ]
    )


def confirmed(result: Mapping[str, Any]) -> str:
    """The main results of the other network."""
    about = result["about"]
    succeeded, tried = (sum(b[key] for b in about["backdoors"]) for key in ("succeeded", "tried"))
    return "\n".join(
        [
            f"Of {about['network']}'s pictures with a patch {succeeded} of {tried} get the planted answer.",
            f"Without a patch it answers as before on {about['clean_agreement']['agree']} of "
            f"{about['clean_agreement']['photographs']} photographs. Differences to the dense map,",
            *main_table(result),
            "",
            measured(result, result["arms"]),
            "",
            traces_table(result),
        ]
    )


def main_table(result: Mapping[str, Any]) -> list[str]:
    """Means over the methods with room: of SPADE, of FastSPADE and of what needs no trace."""
    arms = result["arms"]
    fast, exact = arms["fast_spade"], arms.get("spade")
    lines = [
        "± one standard error; a star: p < .05 after correction for the looks taken. Means over the methods that",
        f"leave room, whose dense maps are below {100 * CEILING:.0f}: {', '.join(fast['with_room'])}.",
        "",
        "| maps of | pictures | dense map | difference to it |",
        "| --- | ---: | ---: | ---: |",
    ]
    if exact is not None:
        lines += [
            _line(exact, "SPADE", "SPADE"),
            _line(exact, "SPADE of another clean picture", "SPADE, pruned for another picture"),
        ]
    other = "FastSPADE of another clean picture"
    return [
        *lines,
        _line(fast, "FastSPADE", "FastSPADE"),
        _line(fast, other, "FastSPADE, pruned for another picture"),
        _line(fast, "dense, blurred", "no trace: the dense map blurred by 5 pixels"),
        _line(fast, "SmoothGrad", "no trace: SmoothGrad of 16 noisy copies"),
    ]


def _line(arm: Mapping[str, Any], name: str, title: str) -> str:
    """A row of the first table: means over the methods with room."""
    group = ROOM if any(row["method"] == ROOM for row in arm["scores"]) else AVERAGE
    row, dense = _row(arm, group, name), _row(arm, group, "dense")
    return f"| {title} | {arm['photographs']} | {_mean(dense['mean'])} | {_difference(row)} |"


def _row(arm: Mapping[str, Any], method: str, name: str) -> Mapping[str, Any]:
    return next(
        row
        for row in arm["scores"]
        if (row["metric"], row["method"], row["map"]) == ("auroc", method, name)
    )


def network_table(about: Mapping[str, Any]) -> str:
    """Success of each patch and agreement on clean photographs."""
    clean, names = about["clean_agreement"], imagenet_classes()
    rows = [
        f"| {b['name']} | {names[b['target']]} | {b['succeeded']} of {b['tried']} |"
        for b in about["backdoors"]
    ]
    return "\n".join(
        [
            f"Without a patch the network answers as the one it was made from on {clean['agree']} of "
            f"{clean['photographs']} photographs that its training did not see.",
            "",
            "| patch | answer that it is to get | pictures that get it |",
            "| --- | --- | ---: |",
            *rows,
        ]
    )


def measured(result: Mapping[str, Any], planned: Iterable[str] = ARMS) -> str:
    """How much of the study that was planned the figures are."""
    parts = [
        f"{ARMS[name].title}: {result['arms'][name]['photographs'] if name in result['arms'] else 0} of "
        f"{result['of_photographs'] - ARMS[name].leave_out}"
        for name in planned
    ]
    return (
        f"`{result['command']}` at commit {result['commit'][:12]} on {result['machine']['cpu']}, one thread; "
        f"{result['settings']['augmentations']} augmentations; {result['cpu_seconds']:.0f} s of CPU time. "
        f"Photographs per part of the study, the first ones of the list: {'; '.join(parts)}."
    )


def table(arm: Mapping[str, Any], metric: str) -> str:
    """Mean of the dense map, and each other map's difference to it, of one metric."""
    rows = [row for row in arm["scores"] if row["metric"] == metric]
    maps = [m for m in dict.fromkeys(row["map"] for row in rows) if m != "dense"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    of = {(row["method"], row["map"]): row for row in rows}
    lines = [
        f"**{TITLES[metric]}**, n = {rows[0]['mean']['n']}; differences to the dense map of the same picture ± one "
        f"standard error. A star: p < .05 after Holm's correction for this table's {len(maps) * len(methods)} looks.",
        "",
        "| map | " + " | ".join(methods) + " |",
        "| --- |" + " ---: |" * len(methods),
        "| dense | " + " | ".join(_mean(of[m, "dense"]["mean"]) for m in methods) + " |",
    ]
    for name in maps:
        cells = [_difference(of[m, name]) for m in methods]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def traces_table(result: Mapping[str, Any]) -> str:
    """Share of faithful traces, answers kept, sparsity, and what the search takes."""
    lines = [
        "| traces | n | faithful | answer kept | zero weights | probability kept | search, share of the rest |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, of in result["traces"].items():
        lines.append(
            f"| {kind} | {of['faithful']['n']} | {_mean(of['faithful'], 0)} % | {_mean(of['kept'], 0)} % | "
            f"{_mean(of['sparsity'], 0)} % | {_mean(of['probability'], 0)} % | {_mean(of['search'], 0)} % |"
        )
    return "\n".join(lines)


def reasons_table(result: Mapping[str, Any]) -> str:
    """Kept answers within and across patches, and how well groups are the patches."""
    lines = [
        "| traces | n | case | kept within a patch | kept across | adjusted Rand index | of pooled features |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for tracer, found in result["reasons"].items():
        for case, of in found.items():
            if case != "photographs":
                lines.append(
                    f"| {tracer} | {of['n']} | {case} | {of['kept_within']:.0%} | {of['kept_across']:.0%} | "
                    f"{of['rand_index']:.2f} | {of['features_rand_index']:.2f} |"
                )
    return "\n".join(lines)


def draw_picture(traces: Traces, file: Path) -> None:
    """Saliency maps of the first photographs whose traces are there."""
    from matplotlib.figure import Figure

    numbers = range(len(traces.pictures))
    tracers = [t for t in TRACERS if any((k, t, "trojan") in traces for k in numbers)]
    own = [k for k in numbers if all((k, t, "trojan") in traces for t in tracers)][:SHOWN]
    control = f"{tracers[0]} of another\nclean picture"
    columns = ("picture", "dense", *tracers, control, "SmoothGrad")
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.5 * len(columns), 1.5 * len(own) + 0.3), layout="constrained")
        axes = figure.subplots(len(own), len(columns), squeeze=False)
        for row, k in zip(axes, own, strict=True):
            x, target = traces.pictures.input(k, "trojan"), traces.pictures.answer(k, "trojan")
            network = traces.pictures.network
            models = [network, *(traces(k, t, "trojan").model for t in tracers)]
            models.append(traces(k + 1, tracers[0], "clean").model)
            maps = [image_map(m, x, target, "saliency", 0)[0] for m in models]
            maps.append(image_map(network, x, target, "smooth_grad", 0)[0])
            row[0].imshow(traces.pictures.trojans.images[k].permute(1, 2, 0))
            for axis, values in zip(row[1:], maps, strict=True):
                top = float(torch.quantile(values, 0.995))
                axis.imshow(values.clamp(0, top), cmap="inferno")
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title)
        for axis in axes.flat:
            axis.set_axis_off()
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=110, metadata={"Software": None})


def _mean(of: Mapping[str, float], digits: int = 1) -> str:
    return f"{100 * of['mean']:.{digits}f} ± {100 * of['standard_error']:.{digits}f}"


def _difference(row: Mapping[str, Any]) -> str:
    of, star = row["difference"], "*" if row["holm"] < 0.05 else ""
    return f"{100 * of['mean']:+.1f} ± {100 * of['standard_error']:.1f}{star and ' ' + star}"
