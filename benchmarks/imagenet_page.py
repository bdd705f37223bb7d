"""The generated parts of docs/imagenet-study.md: the network's table, what was measured, the tables of results."""

from collections.abc import Mapping
from typing import Any

from spade_xai.models.efficientnet_lite import imagenet_classes

TITLES = {
    "auroc": "AUROC of the patch's pixels, times 100",
    "pointing_game": "Pointing game: maps whose highest pixel lies on the patch, in per cent",
    "insertion": "Insertion on clean photographs, times 100: higher is better",
    "deletion": "Deletion on clean photographs, times 100: lower is better",
}


def blocks(result: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str]:
    """All generated text of the page by the name of its markers."""
    return {
        "network": network_table(about),
        "measured": measured(result),
        "results": "\n\n".join(table(result, metric) for metric in TITLES),
        "traces": traces_table(result),
    }


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


def measured(result: Mapping[str, Any]) -> str:
    """How much of the whole study the figures are."""
    n, whole = result["photographs"], result["of_photographs"]
    settings = result["settings"]
    part = "all" if n == whole else f"the first {n} of {whole}"
    sparsity = settings["sparsity"] or "the default, as sparse as the trace stays faithful"
    return (
        f"`{result['command']}`: {part} photographs, {len(settings['methods'])} of the paper's ten methods, "
        f"{settings['augmentations']} augmentations, sparsity: {sparsity}; {result['cpu_seconds']:.0f} s of CPU time."
    )


def table(result: Mapping[str, Any], metric: str) -> str:
    """Mean of the dense map, and each other map's difference to it, of one metric."""
    rows = [row for row in result["scores"] if row["metric"] == metric]
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
    if metric in result["smooth_grad"]:
        lines += ["", f"SmoothGrad on the dense network: {_mean(result['smooth_grad'][metric])}."]
    return "\n".join(lines)


def traces_table(result: Mapping[str, Any]) -> str:
    """Answers kept, sparsity and seconds of the traces."""
    lines = [
        "| traces of | method | answer kept | probability (dense) | zero weights | seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, tracers in result["traces"].items():
        for tracer, found in tracers.items():
            lines.append(
                f"| {kind} | {tracer} | {_mean(found['kept'], 0)} % | {found['probability']['mean']:.2f} "
                f"({found['dense_probability']['mean']:.2f}) | {_mean(found['sparsity'], 0)} % | "
                f"{found['seconds']['mean']:.0f} |"
            )
    return "\n".join(lines)


def _mean(of: Mapping[str, float], digits: int = 1) -> str:
    return f"{100 * of['mean']:.{digits}f} ± {100 * of['standard_error']:.{digits}f}"


def _difference(row: Mapping[str, Any]) -> str:
    of, star = row["difference"], "*" if row["holm"] < 0.05 else ""
    return f"{100 * of['mean']:+.1f} ± {100 * of['standard_error']:.1f}{star and ' ' + star}"
