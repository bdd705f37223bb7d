"""What a result is compared with: maps that ignore the model, and models pruned without the sample."""

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.layers import find_layers, select_layers
from spade_xai.tracing.pruning.magnitude import cut
from spade_xai.tracing.schedule import FAITHFUL, Sparsity, resolve_sparsity


def random_map(x: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1) for each image [B, C, H, W]: [B, H, W].

    Example:
        >>> import torch
        >>> from spade_xai import baselines
        >>> baselines.random_map(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8])
    """
    _check_images("random_map", x)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(x), *x.shape[2:], generator=generator).to(x.device)


def edge_map(x: Tensor, *, detector: str = "sobel") -> Tensor:
    """Strength of the edges of each image, a map that does not look at the model.

    Casper et al. (NeurIPS 2023) found that most attribution methods find Trojans no better than an edge detector.

    Args:
        x: Images [B, C, H, W]; each is scaled to [0, 1], which Canny's thresholds assume. Not modified.
        detector: "sobel" (gradient magnitude of the mean over channels) or "canny" (0 or 1).

    Returns:
        float32 [B, H, W].

    Example:
        >>> import torch
        >>> from spade_xai import baselines
        >>> baselines.edge_map(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8])
    """
    _check_images("edge_map", x)
    gray = x.float().mean(1, keepdim=True)
    low, high = gray.amin((2, 3), keepdim=True), gray.amax((2, 3), keepdim=True)
    gray = (gray - low) / (high - low).clamp_min(1e-12)
    if detector == "sobel":
        from kornia.filters import sobel

        return sobel(gray)[:, 0]
    if detector == "canny":
        from kornia.filters import canny

        return canny(gray)[1][:, 0]
    raise ValueError(f"edge_map: detector must be 'sobel' or 'canny', got {detector!r}")


def magnitude_prune(model: nn.Module, sparsity: Sparsity, *, depthwise: bool = False) -> nn.Module:
    """Return a copy of model whose weights of least magnitude are zero.

    In each layer floor(sparsity * numel) weights go; ties go by lowest index. The layers are those that `trace`
    prunes, attention projections among them, and depthwise convolutions only if asked for. The copy is in eval mode
    and shares all tensors that are not pruned with the model. `trace(..., method="magnitude")` gives the same weights
    as a trace.

    Args:
        model: Not modified.
        sparsity: A ratio in [0, 1], a schedule, patterns and ratios, or the path of a file, as in `trace`.
        depthwise: Prune depthwise convolutions too.

    Example:
        >>> import torch
        >>> from spade_xai import baselines
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> sparse = baselines.magnitude_prune(model, 0.5)
        >>> int((sparse[0].weight == 0).sum())
        16
    """
    function = "magnitude_prune"
    if sparsity == FAITHFUL:
        raise ValueError(f"{function}: sparsity must be given: no sample tells what is faithful")
    sparse = duplicate(model)
    everything = find_layers(model)
    layers = select_layers(everything, None, depthwise=depthwise, function=function)
    ratios = resolve_sparsity(function, sparsity, layers, everything)
    for layer in layers:
        if ratios[layer.name] > 0:
            layer.write(sparse, cut(layer.read(model), ratios[layer.name]))
    return sparse


def _check_images(function: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"{function}: x must have shape [B, C, H, W], got {tuple(x.shape)}")
