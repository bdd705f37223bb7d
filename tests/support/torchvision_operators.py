"""torchvision beside a PyTorch of another build: its operators declared, so that its models can be imported."""

import sys

import torch

_held: list[torch.library.Library] = []  # operators live as long as their Library


def declare() -> None:
    """Declare the operators of torchvision's compiled part where it does not load.

    torchvision's PyPI wheel is a CUDA build: beside a CPU-only torch its library does not load, and importing
    torchvision then fails because it registers fake kernels for operators nobody has declared.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        pass
    else:
        return
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    box_ops = {
        "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    }
    pooling = ["roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"]
    for name in pooling:
        box_ops[name] = "(Tensor input) -> Tensor"
        box_ops[f"_{name}_backward"] = "(Tensor grad) -> Tensor"
    for name, signature in box_ops.items():
        library.define(name + signature)
    _held.append(library)
