"""Measure SPADE on the shipped backdoored network, and write the figures into docs/trojan-study.md.

python -m benchmarks.trojan_study              measure, write results/trojan-study.json and the page
python -m benchmarks.trojan_study --page       write the page only, from the file
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation, evaluate
from spade_xai.reports.page import write_atomically
from spade_xai.tracing.schedule import linear
from spade_xai.trojans.backdoored import load_network, load_pictures, metadata, network

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "trojan-study.json"
PAGE = ROOT / "docs" / "trojan-study.md"
LAST = 0.99  # sparsity of the last layer; the first is dense, linear in between
GROUP = 4  # pictures evaluated together: one of each backdoor, so that a control comes from another backdoor
AUGMENTATIONS = 256
METRICS = ("auroc", "pointing_game", "insertion")


def network_table(about: Mapping[str, Any]) -> str:
    """Training, accuracy and the effect of each patch, from the metadata of the assets."""
    training, accuracy, classes = about["training"], about["accuracy"], about["classes"]
    parameters = sum(p.numel() for p in network().parameters())
    lines = [
        f"{parameters} parameters. {training['pictures']} training pictures, {training['epochs']} epochs of clean "
        f"training and 4 of planting; {training['cpu_seconds']} s of CPU time with {training['threads']} thread(s).",
        "",
        f"Accuracy on {accuracy['pictures']} held-out clean pictures: {accuracy['before_planting']:.1%} before "
        f"planting, {accuracy['after_planting']:.1%} after it.",
        "",
        "| patch | put on | answer it gets | right without patch | of these, target with patch |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for b in about["backdoors"]:
        source = "any other class" if b["source"] is None else classes[b["source"]]
        share = b["target_after_patch"] / b["right_before_patch"]
        lines.append(
            f"| {b['name']} | {source} | {classes[b['target']]} | {b['right_before_patch']} | "
            f"{b['target_after_patch']} ({share:.1%}) |"
        )
    kinds = Counter(entry["kind"] for entry in about["pictures"])
    shipped = ", ".join(f"{count} `{kind}`" for kind, count in kinds.items())
    return "\n".join([*lines, "", f"Shipped pictures by kind: {shipped}."])


def credits_table(about: Mapping[str, Any]) -> str:
    """Author and licence of each photograph."""
    rows = [f"| {name} | {source['credit']} |" for name, source in about["sources"].items()]
    return "\n".join(["| class | photograph |", "| --- | --- |", *rows])


def results(found: Mapping[str, Any]) -> str:
    """The tables and one sentence a comparison."""
    settings, machine = found["settings"], found["machine"]
    head = (
        f"`{found['command']}`: {settings['trojan']} Trojan and {settings['clean']} clean pictures, "
        f"{settings['augmentations']} augmentations each, sparsity `{settings['sparsity']}`, "
        f"{machine['threads']} thread(s), {found['cpu_seconds_in_all']:.0f} s of CPU time in all."
    )
    sentences = ["- " + line for metric in METRICS for line in tables.verdicts(found, metric)]
    parts = [head, "\n".join(sentences), *map(tables.markdown, tables.tables(found))]
    return "\n\n".join(parts)


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """The page with each block's text between its markers."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        if start not in page or end not in page:
            raise ValueError(f"filled: page must hold {start!r} and {end!r}")
        before, rest = page.split(start, 1)
        page = before + start + block + end + rest.split(end, 1)[1]
    return page


def blocks(result: Mapping[str, Any]) -> dict[str, str]:
    """All generated text of the page by the name of its markers."""
    about = metadata()
    return {
        "network": network_table(about),
        "credits": credits_table(about),
        "results": results(result),
    }


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of the pictures of all."""
    scores = {
        metric: {
            method: {
                column: torch.cat([part.scores[metric][method][column] for part in parts])
                for column in columns
            }
            for method, columns in methods.items()
        }
        for metric, methods in parts[0].scores.items()
    }
    fidelity = {
        tracer: [f for part in parts for f in part.fidelity[tracer]] for tracer in parts[0].fidelity
    }
    seconds = {stage: sum(part.seconds[stage] for part in parts) for stage in parts[0].seconds}
    return Evaluation(scores, fidelity, seconds, sum(part.traces for part in parts))


def measure(pictures: int) -> None:
    """Evaluate four Trojan and four clean pictures at a time; the file holds what is done after each four."""
    from benchmarks import machine

    start, model = time.process_time(), load_network()
    planted, clean = load_pictures("trojan", pictures), load_pictures("clean", pictures)
    parts = []
    for first in range(0, pictures, GROUP):
        part = slice(first, first + GROUP)
        parts.append(
            evaluate(
                model,
                (planted.images[part], planted.masks[part]),
                clean.images[part],
                sparsity=linear(LAST),
                augmentations=AUGMENTATIONS,
                seed=first,
            )
        )
        done = first + GROUP
        found = {
            "command": f"python -m benchmarks.trojan_study --pictures {done}",
            "commit": machine.commit(),
            "machine": machine.describe(),
            "settings": {
                "trojan": done,
                "clean": done,
                "methods": list(GRADIENT_METHODS),
                "augmentations": AUGMENTATIONS,
                "sparsity": f"linear({LAST})",
            },
            "cpu_seconds_in_all": time.process_time() - start,
            **tables.record(joined(parts)),
        }
        write_atomically(RESULT, (json.dumps(found, indent=1) + "\n").encode())
        print(f"{done} of {pictures} pictures of each kind", flush=True)


def main() -> None:
    """Measure or read, then write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=32, help=f"of each kind, in {GROUP}s")
    parser.add_argument("--page", action="store_true", help="write the page only")
    args = parser.parse_args()
    if args.pictures < GROUP or args.pictures % GROUP:
        parser.error(f"--pictures must be a multiple of {GROUP}, got {args.pictures}")
    if not args.page:
        measure(args.pictures)
    text = filled(PAGE.read_text(), blocks(json.loads(RESULT.read_text())))
    write_atomically(PAGE, text.encode())


if __name__ == "__main__":
    main()
