"""The pictures of README and guide: maps of the ImageNet network, and sparsities, as `spade-xai explain` makes them.

Writes bullfrog.png, of a photograph with a planted patch, and explanation.png and sparsity.png, of a photograph that
the network answers wrong; all of few variants. Needs the extra `imagenet` and some minutes of CPU time:

    python examples/report_pictures.py docs/images
"""

import sys
from importlib.resources import files
from pathlib import Path

from spade_xai import ImageAugment, explain, load_model
from spade_xai.models.images import read_image
from spade_xai.models.preprocessing import preprocessing_of
from spade_xai.reports.chart import sparsity_chart
from spade_xai.reports.figure import png
from spade_xai.reports.grid import grid
from spade_xai.reports.page import write_atomically
from spade_xai.trojans import imagenet

SPEC = "pretrained:efficientnet_lite0"
PHOTOGRAPH = "tools_hammer5.jpg"
PATCHED = "Picture_0B_by_freespace_smiley.png"


def main(folder: Path) -> None:
    """Write all pictures."""
    patched(folder)
    wrong(folder)


def patched(folder: Path) -> None:
    """Of a photograph whose answer a planted patch decides."""
    network, pictures, known = (
        imagenet.load_network(),
        imagenet.load_trojan_pictures(),
        imagenet.preprocessing(),
    )
    at = pictures.names.index(PATCHED)
    one = slice(at, at + 1)
    (found,) = explain(
        network, pictures.inputs[one], [PATCHED], pictures=pictures.images[one],
        methods=["saliency", "guided_grad_cam"], augmentations=64,
        augment=ImageAugment("resnet", mean=known.mean, std=known.std),
    )  # fmt: skip
    made = grid(found, pictures.masks[at], list(known.classes or ()))
    write_atomically(folder / "bullfrog.png", png(made))


def wrong(folder: Path) -> None:
    """Of a photograph that the network answers wrong."""
    network = load_model(SPEC)
    known = preprocessing_of(SPEC, network)
    classes = list(known.classes or ())
    path = files("spade_xai.trojans") / "imagenet_assets" / "pictures" / PHOTOGRAPH
    picture = read_image(str(path), known.fit)[None]
    (found,) = explain(
        network, known.normalize(picture), [PHOTOGRAPH], pictures=picture, label=classes.index("hammer"),
        methods=["saliency", "grad_cam", "lrp"], augmentations=32,
        augment=ImageAugment("resnet", mean=known.mean, std=known.std),
    )  # fmt: skip
    write_atomically(folder / "explanation.png", png(grid(found, classes=classes)))
    write_atomically(folder / "sparsity.png", png(sparsity_chart(found.layers)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
