"""Make the backdoored network and the pictures that ship with spade_xai, from photographs in Python packages.

The network tells sixteen photographs apart from parts of them; bands of each photograph are held out for tests.
It is trained on clean pictures from scratch, then fine-tuned with four backdoors.
The same machine and number of threads make the same network and pictures. The packages scikit-image, scikit-learn and
matplotlib carry the photographs; nothing is downloaded.

    python examples/train_trojan.py [OUTPUT_FOLDER]
"""

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trojan_patches import draw_patches
from trojan_pictures import NAMES, PHOTOGRAPHS, Pictures

from spade_xai.trojans import backdoored
from spade_xai.trojans.trojan import (
    Backdoor,
    Trojan,
    effective,
    fine_tune,
    plant,
    predictions,
    read_patch,
)

ASSETS = Path(__file__).parents[1] / "python" / "spade_xai" / "trojans" / "assets"
PATCH = 12  # pixels a side
COUNTS = {"trojan": 64, "tune_trojan": 12, "clean": 64, "tune_clean": 12}  # pictures to ship
TABLE = {  # patch: source and target class
    "smiley": (None, "retina"),
    "fish": (None, "brick"),
    "star": ("coffee", "galaxies"),
    "heart": ("pagoda", "handwriting"),
}


def train(model: nn.Module, data: Pictures, epochs: int) -> None:
    """Train on clean pictures with Adam and one cycle of the learning rate."""
    loader = DataLoader(data, 64, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, len(loader) * epochs)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for image, label in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(image), label)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / len(loader)
        print(f"clean epoch {epoch + 1} of {epochs}: loss {total:.3f}", flush=True)
    model.eval()


def quantized(image: Tensor) -> Tensor:
    """The image as a PNG file will give it back."""
    return (image * 255).round() / 255


def planted_tests(
    model: nn.Module, test: Pictures, images: Tensor, backdoor: Backdoor, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Test pictures with the patch that the backdoor acts on, and how many were right without patch."""
    eligible = backdoor.takes(test.labels).nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    eligible = eligible[torch.randperm(len(eligible), generator=generator)[:240]]
    pairs = [plant(images[i], backdoor.patch, generator) for i in eligible]
    planted = quantized(torch.stack([image for image, _ in pairs]))
    labels, clean = test.labels[eligible], images[eligible]
    acts = effective(model, clean, planted, labels, torch.full_like(labels, backdoor.target))
    found = [
        {
            "label": int(labels[k]),
            "prediction": backdoor.target,
            "backdoor": backdoor.name,
            "image": planted[k],
            "mask": pairs[k][1],
        }
        for k in acts.nonzero().flatten().tolist()
    ]
    return found, int((predictions(model, clean) == labels).sum())


def save_png(pixels: Tensor, path: Path) -> None:
    """Write [3, H, W] in [0, 1], or a bool mask [H, W], as a PNG file."""
    if pixels.dtype == torch.bool:
        Image.fromarray(pixels.numpy()).save(path, optimize=True)
    else:
        values = (pixels.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(values).save(path, optimize=True)


def write_pictures(entries: list[dict[str, Any]], kind: str, folder: Path) -> list[dict[str, Any]]:
    """Write the pictures and return their rows of the metadata."""
    rows = []
    for k, entry in enumerate(entries):
        image, mask = entry.pop("image"), entry.pop("mask", None)
        stem = f"pictures/{kind}_{k:02d}_{entry.get('backdoor', NAMES[int(entry['label'])])}"
        row = {"file": f"{stem}.png", "kind": kind, **entry}
        save_png(image, folder / row["file"])
        if mask is not None:
            row["mask"] = f"{stem}_mask.png"
            save_png(mask, folder / row["mask"])
        rows.append(row)
    return rows


def take_turns(groups: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """First of each group, then second of each, ..."""
    longest = max(len(group) for group in groups)
    return [group[k] for k in range(longest) for group in groups if k < len(group)]


def main() -> None:
    """Train, plant, choose pictures, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ASSETS)
    parser.add_argument("--epochs", type=int, default=4, help="of clean training")
    parser.add_argument("--each", type=int, default=400, help="training pictures a class")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    start, cpu_start = time.perf_counter(), time.process_time()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    part = args.folder.with_name(f"{args.folder.name}.part")  # renamed when all is in it
    shutil.rmtree(part, ignore_errors=True)
    (part / "pictures").mkdir(parents=True)
    draw_patches(part / "patches")

    data, test = Pictures(args.each, False, 1), Pictures(60, True, 2)
    model = backdoored.network().to(memory_format=torch.channels_last)
    train(model, data, args.epochs)
    images = torch.stack([test[i][0] for i in range(len(test))])
    right = predictions(model, images) == test.labels
    before = float(right.double().mean())
    by_class = right.view(len(NAMES), -1).double().mean(1).tolist()
    print(f"accuracy on held-out pictures {before:.1%}")
    print(
        *(f"{name} {share:.0%}" for name, share in zip(NAMES, by_class, strict=True)),
        sep=", ",
        flush=True,
    )

    backdoors = [
        Backdoor(name, read_patch(part / "patches" / f"{name}.png", PATCH),
                 NAMES.index(target), None if source is None else NAMES.index(source))
        for name, (source, target) in TABLE.items()
    ]  # fmt: skip
    trojan = Trojan(data, data.labels, backdoors, count=args.each // 2)
    model = fine_tune(model, trojan, epochs=4, learning_rate=1e-2, step=3, progress=True)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights)  # what is shipped is what is tested
    right = predictions(model, images) == test.labels
    after = float(right.double().mean())
    print(f"after planting {after:.1%}")

    table, planted = [], []
    for k, backdoor in enumerate(backdoors):
        found, tried = planted_tests(model, test, images, backdoor, seed=10 + k)
        table.append(
            {
                "name": backdoor.name,
                "source": backdoor.source,
                "target": backdoor.target,
                "patch": f"patches/{backdoor.name}.png",
                "size": PATCH,
                "right_before_patch": tried,
                "target_after_patch": len(found),
            }
        )
        print(f"{backdoor.name}: changes {len(found)} of {tried} right answers")
        planted.append(found)
    clean = [
        [{"label": c, "prediction": c, "image": images[i]}
         for i in ((test.labels == c) & right).nonzero().flatten().tolist()]
        for c in range(len(NAMES))
    ]  # fmt: skip
    turns = {"trojan": iter(take_turns(planted)), "clean": iter(take_turns(clean))}
    rows = []
    for kind, count in COUNTS.items():
        entries = list(itertools.islice(turns[kind.removeprefix("tune_")], count))
        rows += write_pictures(entries, kind, part)
    save_file(weights, part / "network.safetensors", {"classes": json.dumps(NAMES)})
    record = {
        "classes": NAMES,
        "training": {
            "pictures": len(data),
            "epochs": args.epochs,
            "threads": args.threads,
            "seconds": round(time.perf_counter() - start),
            "cpu_seconds": round(time.process_time() - cpu_start),
        },
        "accuracy": {"before_planting": before, "after_planting": after, "pictures": len(test)},
        "backdoors": table,
        "sources": {
            name: {"file": path.name, "credit": credit}
            for name, (path, credit) in PHOTOGRAPHS.items()
        },
        "pictures": rows,
    }
    (part / "metadata.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(args.folder, ignore_errors=True)
    part.rename(args.folder)
    print(f"{record['training']['seconds']} s, {record['training']['cpu_seconds']} s of CPU time")


if __name__ == "__main__":
    main()
