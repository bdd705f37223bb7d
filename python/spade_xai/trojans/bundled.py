"""The backdoored networks that ship, in the form of a folder of `spade-xai plant`."""

import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from spade_ext.files import write_bytes
from spade_xai.models.efficientnet_lite import MEAN, STD
from spade_xai.trojans import backdoored, imagenet
from spade_xai.trojans.planted import (
    INDEX,
    Picture,
    Planted,
    mask_file,
    picture_file,
    read_planted,
    write_planted,
)

TITLES = {
    "toy": "the bundled toy network (a ResNet of 26 layers, 16 classes, 64 x 64 pixels; NOT the paper's network)",
    "lite0": "the bundled backdoored EfficientNet-Lite0 (ImageNet classes; NOT the paper's network)",
}
"""The networks that `--planted` takes by name."""


def unpack(name: str, folder: Path) -> Planted:
    """Write a bundled network's pictures into a folder, unless they are there, and read its index.

    Args:
        name: "toy" or "lite0".
        folder: A folder of its own.

    Raises:
        ValueError: The folder holds something else.
        ModuleNotFoundError: The network needs the extra `imagenet`.
    """
    if not (folder / INDEX).exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"unpack: {folder} must be empty or written by this package: it has no {INDEX}"
            )
        part = folder.with_name(f".{folder.name}.part")  # renamed when all is in it
        shutil.rmtree(part, ignore_errors=True)
        _WRITERS[name](part)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    found = read_planted(folder)
    if found.title != TITLES[name]:
        raise ValueError(f"unpack: {folder} must hold {TITLES[name]}, got {found.title}")
    return found


def _toy(folder: Path) -> None:
    about = backdoored.metadata()
    kinds: dict[str, list[Picture]] = {"trojan": [], "clean": []}
    for entry in about["pictures"]:
        kind = entry["kind"].removeprefix("tune_")
        mask = entry.get("mask")
        if entry["kind"] == "tune_trojan":  # sparsities may have been chosen on them
            continue
        for file in (entry["file"], mask):
            if file is not None:
                _write(folder, kind, file, _read("assets", file))
        kinds[kind].append(
            Picture(
                _place(kind, entry["file"]), entry["label"], entry.get("backdoor"),
                None if mask is None else _place(kind, mask),
            )
        )  # fmt: skip
    tried = sum(b["right_before_patch"] for b in about["backdoors"])
    succeeded = sum(b["target_after_patch"] for b in about["backdoors"])
    accuracy = about["accuracy"]
    planted = Planted(
        title=TITLES["toy"], bundled=True, model="spade_xai.trojans.backdoored:load_network", weights=None,
        classes=None, size=None, normalize="none",
        backdoors=[
            _backdoor(folder, "assets", b, b["right_before_patch"], b["target_after_patch"])
            for b in about["backdoors"]
        ],
        trojan=kinds["trojan"], clean=kinds["clean"],
        accuracy={
            "clean": share(round(accuracy["after_planting"] * accuracy["pictures"]), accuracy["pictures"]),
            "trojan": share(succeeded, tried),
        },
        settings=about["training"],
    )  # fmt: skip
    write_planted(folder, planted)


def _lite0(folder: Path) -> None:
    about = imagenet.metadata()
    imagenet.load_network()  # refuses where its weights are not installed
    trojan, clean = (imagenet.load_trojan_pictures(kind) for kind in imagenet.KINDS)
    found: dict[str, list[Picture]] = {"trojan": [], "clean": []}
    for kind, pictures in (("trojan", trojan), ("clean", clean)):
        for k, name in enumerate(pictures.names):
            file = _place(kind, str(PurePosixPath(name).with_suffix(".png")))
            _write(folder, kind, file, picture_file(pictures.images[k]))
            mask = None
            if kind == "trojan":
                mask = _place(kind, f"{PurePosixPath(name).stem}_mask.png")
                _write(folder, kind, mask, mask_file(pictures.masks[k]))
            found[kind].append(Picture(file, None, pictures.backdoors[k], mask))
    mean, std = (",".join(map(str, values)) for values in (MEAN, STD))
    tried = sum(b["tried"] for b in about["backdoors"])
    planted = Planted(
        title=TITLES["lite0"], bundled=True, model="spade_xai.trojans.imagenet:load_network", weights=None,
        classes=None, size=None, normalize=f"{mean}/{std}",
        backdoors=[
            _backdoor(folder, "imagenet_assets", b, b["tried"], b["succeeded"])
            for b in about["backdoors"]
        ],
        trojan=found["trojan"], clean=found["clean"],
        accuracy={"trojan": share(sum(b["succeeded"] for b in about["backdoors"]), tried)},
        settings=about["training"],
    )  # fmt: skip
    write_planted(folder, planted)


_WRITERS: dict[str, Callable[[Path], None]] = {"toy": _toy, "lite0": _lite0}


def share(right: int, tried: int) -> dict[str, Any]:
    """A share of so many as mean, standard error (of a proportion) and n."""
    mean = right / tried
    return {"mean": mean, "standard_error": (mean * (1 - mean) / tried) ** 0.5, "n": tried}


def _backdoor(
    folder: Path, assets: str, entry: dict[str, Any], tried: int, succeeded: int
) -> dict[str, Any]:
    _write(folder, "patches", entry["patch"], _read(assets, entry["patch"]))
    return {
        "name": entry["name"], "source": entry.get("source"), "target": entry["target"],
        "patch": _place("patches", entry["patch"]), "size": entry["size"], "tried": tried,
        "succeeded": succeeded,
    }  # fmt: skip


def _place(kind: str, file: str) -> str:
    return f"{kind}/{PurePosixPath(file).name}"


def _write(folder: Path, kind: str, file: str, data: bytes) -> None:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    write_bytes(folder / _place(kind, file), data)


def _read(assets: str, file: str) -> bytes:
    return resources.files("spade_xai.trojans").joinpath(assets, file).read_bytes()
