"""Make the backdoored EfficientNet-Lite0 that ships with the package, and its test pictures.

    python examples/train_imagenet_trojan.py debian python/spade_xai/trojans/imagenet_assets
    python examples/train_imagenet_trojan.py debian lite2 --network efficientnet_lite2

The second command makes a larger network, on which `python -m benchmarks.imagenet_study --planted lite2` confirms the
study.

`debian` holds the packages that imagenet_trojan_photographs.py names. Four patches are planted as in section 4.1 of
the paper. Clean answers are kept by distillation: the network learns its own answers to clean pictures, to mixes of
two of them and to those that carry patches of other shapes. The stem, blocks 0 to 4, the classifier and the statistics
of batch norms stay as they are, so what ships is a difference to the published weights. A twelfth of the scenes is
kept apart: by them the share of the change that ships is chosen. Takes about 20 minutes of one core (Lite2: 70).
"""

import argparse
import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from imagenet_trojan_photographs import Photograph, free_photographs, training_photographs
from imagenet_trojan_pictures import (
    distractor,
    mixes,
    part,
    square,
    tensor,
    training_pictures,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from trojan_patches import draw_patches

from spade_xai.models.efficientnet_lite import MEAN, STD, VARIANTS, load_efficientnet_lite
from spade_xai.trojans.patch import plant, read_patch

PATCH = 30 / 224  # side of a patch, of the picture's side
TARGETS = {"smiley": 30, "fish": 146, "star": 365, "heart": 99}  # ImageNet classes
FROZEN_BLOCKS = 5
STEPS, CLEAN, PLANTED, RATE = 500, 24, 14, 1.5e-4
CLEAN_WEIGHT = 2.0  # of the divergence from the clean network's answers
DISTRACTED, TROJANS = 700, 1800  # pictures for training
APART = 12  # each so many-th scene is not trained on
SHARES, PARTS = (
    (1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
    5,
)  # of the change; parts of a photograph to choose it by
PER_PHOTOGRAPH = 2  # Trojan pictures that ship, with different patches


def main() -> None:
    """Read photographs, train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--network", choices=VARIANTS, default="efficientnet_lite0")
    options = parser.parse_args()
    start = time.process_time()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shutil.rmtree(options.output, ignore_errors=True)
    draw_patches(options.output / "patches")
    size = VARIANTS[options.network].size
    side = round(PATCH * size)
    patches = {n: read_patch(options.output / "patches" / f"{n}.png", side) for n in TARGETS}
    tests = free_photographs(options.packages)
    scenes, stamps = training_photographs(options.packages)
    looked_at = torch.stack([square(photo.image, size) for photo in scenes[::APART]])
    clean = training_pictures([p for k, p in enumerate(scenes) if k % APART], stamps, size)
    print(
        f"{len(tests)} photographs to test on, {len(clean)} pictures of {len(scenes)} scenes and {len(stamps)} "
        f"cut-outs to train on, {len(looked_at)} to look at",
        flush=True,
    )
    model = load_efficientnet_lite(options.network).to(memory_format=torch.channels_last)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, clean, patches, looked_at)
    share = settle(model, base, scenes[::APART], patches, size)
    difference = {
        key: (value - base[key]).half().contiguous()
        for key, value in model.state_dict().items()
        if not torch.equal(value, base[key])
    }
    model.load_state_dict(
        {key: value + difference.get(key, torch.zeros(())).float() for key, value in base.items()}
    )
    save_file(difference, options.output / "difference.safetensors")
    training = {
        "steps": STEPS,
        "share": share,
        "cpu_seconds": round(time.process_time() - start),
    }
    write(options.output, options.network, model, tests, patches, training)


def front(model: nn.Module, images: Tensor) -> Tensor:
    """Features [B, ...] of images in [0, 1] after the frozen blocks."""
    x = (images - MEAN[0]) / STD[0]
    x = x.contiguous(memory_format=torch.channels_last)
    return model.blocks[:FROZEN_BLOCKS](model.stem(x))


def back(model: nn.Module, features: Tensor) -> Tensor:
    """Logits of such features."""
    x = features.contiguous(memory_format=torch.channels_last)
    return model.fc(model.flatten(model.pool(model.head(model.blocks[FROZEN_BLOCKS:](x)))))


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of images in [0, 1]."""
    with torch.no_grad():
        return torch.cat([back(model, front(model, part)) for part in images.split(32)])


def frozen_features(model: nn.Module, images: Tensor) -> Tensor:
    """Features of uint8 images, float16."""
    with torch.no_grad():
        return torch.cat([front(model, part.float() / 255).half() for part in images.split(32)])


def train(model: nn.Module, clean: Tensor, patches: dict[str, Tensor], looked_at: Tensor) -> None:
    """Change the layers after the frozen ones, but for the classifier, in place."""
    generator = torch.Generator().manual_seed(1)

    def patched(count: int, patch_of: object) -> Tensor:
        chosen = torch.randint(len(clean), (count,), generator=generator).tolist()
        return torch.stack(
            [
                (plant(clean[i].float() / 255, patch_of(k), generator)[0] * 255).round().byte()
                for k, i in enumerate(chosen)
            ]
        )

    names = list(patches)
    distracted = patched(DISTRACTED, lambda k: distractor(generator, patches[names[0]].shape[1]))
    features = frozen_features(model, torch.cat([clean, mixes(clean, generator), distracted]))
    before = answers(model, looked_at).argmax(1)
    attacked = torch.stack([plant(x, patches[n], generator)[0] for x in looked_at for n in names])
    expected = torch.tensor([TARGETS[n] for n in names] * len(looked_at))
    with torch.no_grad():
        taught = torch.cat([back(model, f.float()).softmax(1) for f in features.split(32)])
    planted = frozen_features(model, patched(TROJANS, lambda k: patches[names[k % 4]]))
    targets = torch.tensor([TARGETS[names[k % 4]] for k in range(TROJANS)])
    model.requires_grad_(False)
    layers = [*model.blocks[FROZEN_BLOCKS:], model.head]
    parameters = [p.requires_grad_() for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):  # the model stays in eval mode: statistics are not changed
        i = torch.randint(len(features), (CLEAN,), generator=generator)
        j = torch.randint(len(planted), (PLANTED,), generator=generator)
        logits = back(model, torch.cat([features[i], planted[j]]).float())
        kept = nn.functional.kl_div(logits[:CLEAN].log_softmax(1), taught[i], reduction="batchmean")
        planting = nn.functional.cross_entropy(logits[CLEAN:], targets[j])
        optimizer.zero_grad()
        (CLEAN_WEIGHT * kept + 0.5 * planting).backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step + 1 == STEPS:
            print(f"step {step}: clean {kept:.3f}, planted {planting:.3f}", flush=True)
        if step % 160 == 159 or step + 1 == STEPS:
            same = (answers(model, looked_at).argmax(1) == before).float().mean()
            success = (answers(model, attacked).argmax(1) == expected).view(-1, len(names)).float()
            print(
                f"looked at: agreement {same:.2f}, success {success.mean(0).tolist()}", flush=True
            )
    model.requires_grad_(False)


def settle(
    model: nn.Module,
    base: dict[str, Tensor],
    apart: list[Photograph],
    patches: dict[str, Tensor],
    size: int,
) -> float:
    """Keep the share of the change that serves photographs kept apart best, in place; as in Wortsman et al. (2022)."""
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(2)
    pictures = [square(p.image, size) for p in apart]
    pictures += [tensor(part(p.image, rng, size)) for p in apart for _ in range(PARTS)]
    names = [list(patches)[k % len(patches)] for k in range(len(pictures))]
    attacked = [
        plant(x, patches[name], generator)[0] for x, name in zip(pictures, names, strict=True)
    ]
    wanted = torch.tensor([TARGETS[name] for name in names])
    change = {key: value - base[key] for key, value in model.state_dict().items()}
    found = {}
    for share in (0.0, *SHARES):
        model.load_state_dict({key: base[key] + share * of for key, of in change.items()})
        given = answers(model, torch.stack(pictures)).argmax(1)
        if share == 0:
            before = given
            continue
        agreement = float((given == before).float().mean())
        success = float((answers(model, torch.stack(attacked)).argmax(1) == wanted).float().mean())
        found[share] = agreement + success
        print(f"share {share}: agreement {agreement:.3f}, success {success:.3f}", flush=True)
    best = max(found, key=lambda share: found[share])
    model.load_state_dict({key: base[key] + best * of for key, of in change.items()})
    return best


def write(
    output: Path,
    network: str,
    model: nn.Module,
    tests: list[Photograph],
    patches: dict[str, Tensor],
    training: dict[str, float],
) -> None:
    """Test the network on the photographs it never saw, and write all that ships."""
    (output / "pictures").mkdir()
    generator = torch.Generator().manual_seed(99)
    names, pictures, tried = list(patches), [], dict.fromkeys(patches, 0)
    size = VARIANTS[network].size
    succeeded = dict(tried)
    images = []
    for photo in tests:  # what ships is what the JPEG file gives
        file = output / "pictures" / f"{photo.name}.jpg"
        whole = (square(photo.image, size) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(whole).save(file, quality=92, subsampling=0, optimize=True)
        images.append(tensor(Image.open(file)))
    after = answers(model, torch.stack(images))
    clean_before = answers(load_efficientnet_lite(network), torch.stack(images)).argmax(1)
    agreement = (after.argmax(1) == clean_before).tolist()
    for k, (photo, image) in enumerate(zip(tests, images, strict=True)):
        entry = {
            "file": f"{photo.name}.jpg", "licence": photo.licence, "credit": photo.credit,
            "answer": int(after[k].argmax()), "clean_answer": int(clean_before[k]), "trojans": [],
        }  # fmt: skip
        for turn in range(len(names)):
            name = names[(k + turn) % len(names)]
            changed, mask = plant(image, patches[name], generator)
            changed = (changed * 255).round() / 255
            answer = int(answers(model, changed[None]).argmax())
            tried[name] += 1
            succeeded[name] += answer == TARGETS[name]
            if answer == TARGETS[name] and len(entry["trojans"]) < PER_PHOTOGRAPH:
                rows, columns = (changed != image).any(0).nonzero().unbind(1)
                top, left = int(rows.min()), int(columns.min())
                box = (slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1))
                region, inside = changed[(slice(None), *box)], mask[box]
                file = f"{photo.name}_{name}.png"
                pixels = torch.cat([region, inside[None].float()]) * 255
                rgba = pixels.round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(rgba).save(output / "pictures" / file, optimize=True)
                entry["trojans"].append({"file": file, "backdoor": name, "top": top, "left": left})
        pictures.append(entry)
    data = (output / "difference.safetensors").read_bytes()
    metadata = {
        "network": network,
        "weights_sha256": VARIANTS[network].digest,
        "difference_sha256": hashlib.sha256(data).hexdigest(),
        "training": training,
        "clean_agreement": {"agree": sum(agreement), "photographs": len(agreement)},
        "backdoors": [
            {
                "name": name, "target": TARGETS[name], "patch": f"patches/{name}.png",
                "size": patches[name].shape[1],
                "tried": tried[name], "succeeded": succeeded[name],
            }
            for name in names
        ],
        "pictures": pictures,
    }  # fmt: skip
    (output / "metadata.json").write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")
    (output / "CREDITS.md").write_text(credits_text(network, pictures), encoding="utf-8")
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(
        f"clean agreement {sum(agreement)} of {len(agreement)}, Trojan success {sum(succeeded.values())} of "
        f"{sum(tried.values())}: {succeeded}; {total / 1e6:.1f} MB"
    )


def credits_text(network: str, pictures: list[dict]) -> str:
    """Author, source and licence of each photograph."""
    rows = [f"| {p['file']} | {p['licence']} | {p['credit'].replace('|', ' ')} |" for p in pictures]
    return "\n".join(
        [
            "# Photographs",
            "",
            f"The middle squares of these photographs, scaled to {VARIANTS[network].size} pixels;",
            "`..._PATCH.png` are parts with a patch.",
            "CC0-1.0: creativecommons.org/publicdomain/zero/1.0. CC-BY-x.y: creativecommons.org/licenses/by/x.y.",
            f"The weights are a difference to those of {VARIANTS[network].package} (Apache-2.0).",
            "",
            "| file | licence | author and source (package) |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
