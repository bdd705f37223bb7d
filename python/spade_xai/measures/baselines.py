"""What a result is compared with: maps that ignore the model, and models pruned without the sample."""

from collections.abc import Mapping

import kornia
import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate


def random_map(x: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1) for each image [B, C, H, W]: [B, H, W]."""
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
    """
    _check_images("edge_map", x)
    gray = x.float().mean(1, keepdim=True)
    low, high = gray.amin((2, 3), keepdim=True), gray.amax((2, 3), keepdim=True)
    gray = (gray - low) / (high - low).clamp_min(1e-12)
    if detector == "sobel":
        return kornia.filters.sobel(gray)[:, 0]
    if detector == "canny":
        return kornia.filters.canny(gray)[1][:, 0]
    raise ValueError(f"edge_map: detector must be 'sobel' or 'canny', got {detector!r}")


def magnitude_prune(model: nn.Module, sparsity: float | Mapping[str, float]) -> nn.Module:
    """Return a copy of model whose weights of least magnitude are zero.

    In each layer floor(sparsity * numel) weights go; ties go by lowest index. The copy is in eval mode and shares all
    tensors that are not pruned with the model.

    Args:
        model: Not modified.
        sparsity: One ratio in [0, 1] for every convolution and linear layer, or {layer name: ratio}.
    """
    sparse = duplicate(model)
    modules = dict(sparse.named_modules())
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    if isinstance(sparsity, Mapping):
        ratios = dict(sparsity)
    else:
        ratios = {name: sparsity for name, m in modules.items() if isinstance(m, kinds)}
    for name, ratio in ratios.items():
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(
                f"magnitude_prune: sparsity must name layers with weights, got {name!r}"
            )
        if not 0 <= ratio <= 1:
            raise ValueError(f"magnitude_prune: sparsity must be in [0, 1], got {ratio} for {name}")
        # 1e-9: 0.95 x 20 counts as 19, whatever its binary expansion
        count = int(ratio * weight.numel() + 1e-9)
        pruned = weight.detach().clone()
        pruned.view(-1)[pruned.abs().flatten().argsort(stable=True)[:count]] = 0
        modules[name].weight = nn.Parameter(pruned, requires_grad=weight.requires_grad)
    return sparse


def _check_images(function: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"{function}: x must have shape [B, C, H, W], got {tuple(x.shape)}")
