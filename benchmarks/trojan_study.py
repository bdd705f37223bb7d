"""Measure SPADE on the shipped backdoored network, and write the figures into docs/trojan-study.md.

python -m benchmarks.trojan_study              measure, write results/trojan-study.json and the page
python -m benchmarks.trojan_study --page       write the page only, from the file
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_xai import tables
from spade_xai.backdoored import metadata
from spade_xai.demo import run_demo

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "trojan-study.json"
PAGE = ROOT / "docs" / "trojan-study.md"
METRICS = ("auroc", "pointing_game", "insertion")


def network_table(about: Mapping[str, Any]) -> str:
    """Training, accuracy and the effect of each patch, from the metadata of the assets."""
    training, accuracy, classes = about["training"], about["accuracy"], about["classes"]
    lines = [
        f"{training['pictures']} training pictures, {training['epochs']} epochs of clean training and 4 of planting; "
        f"{training['cpu_seconds']} s of CPU time with {training['threads']} thread(s).",
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
    sentences = [
        "- " + tables.verdict(found, metric, tracer)
        for metric in METRICS
        for tracer in found["fidelity"]
    ]
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


def main() -> None:
    """Measure or read, then write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=32, help="of each kind")
    parser.add_argument("--page", action="store_true", help="write the page only")
    args = parser.parse_args()
    if not args.page:
        from benchmarks import machine

        with tempfile.TemporaryDirectory() as folder:
            found = run_demo(folder, trojan=args.pictures, clean=args.pictures)
        found["command"] = f"python -m benchmarks.trojan_study --pictures {args.pictures}"
        found["commit"] = machine.commit()
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), blocks(json.loads(RESULT.read_text()))))


if __name__ == "__main__":
    main()
