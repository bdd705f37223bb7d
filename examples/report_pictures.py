"""The guide's pictures: the grid and the sparsities of a photograph that the ImageNet network answers wrong.

Writes explanation.png and sparsity.png, as `spade-xai explain` does, of few variants. Needs the extra `imagenet` and
about a minute of CPU time:

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

SPEC = "pretrained:efficientnet_lite0"
PHOTOGRAPH = "tools_hammer5.jpg"


def main(folder: Path) -> None:
    """Write both pictures."""
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
