"""The arithmetic of the dense model's forward passes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")


@contextmanager
def forward_precision(precision: str, device_type: str) -> Iterator[None]:
    """Run forward passes in the model's own dtype, with TF32 products, or under autocast to bfloat16.

    Layer inputs come in the dtype that the layers compute in, and Hessians are sums of exactly those. The global
    flags are as before afterwards.

    Args:
        precision: "float32" changes nothing, so that on CUDA torch's own flags decide (by default convolutions run
            in TF32, products do not); "tf32" lets CUDA multiply float32 in TF32 in both; "bfloat16" is
            torch.autocast.
        device_type: The device type of the model.
    """
    if precision == "bfloat16":
        with torch.autocast(device_type, torch.bfloat16):
            yield
        return
    if precision == "float32":
        yield
        return
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution
