"""Prune a small convolutional network, trained here on scikit-learn's digits, layer by layer.

Prints for each layer and method the relative error of the layer's output on the calibration images, the sparsity
and the time, and the accuracy of the network whose layers are all pruned.
"""

import copy
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

import spade_ext

SPARSITY = 0.7
CALIBRATION = 256  # images that the Hessians are made from


def network() -> nn.Sequential:
    """Three convolutions and a classifier for 8 x 8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def train(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> None:
    """Thirty epochs of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(30):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def accuracy(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of images that get their label."""
    return (model(x).argmax(1) == y).float().mean().item()


def layer_hessians(model: nn.Sequential, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """H of the inputs of every layer with weights, as the dense model runs on x."""
    hessians = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            accumulator = spade_ext.HessianAccumulator(layer)
            accumulator.update(x)
            hessians[name] = accumulator.hessian
        x = layer(x)
    return hessians


def main() -> None:
    """Train, prune with both methods, print."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    seen, held_out = order[:1300], order[1300:]
    model = network()
    train(model, x[seen], y[seen])
    with torch.no_grad():
        print(f"spade_ext {spade_ext.__version__}, {spade_ext.build_info()['cpu_isa']}, "
              f"{torch.get_num_threads()} threads; {len(x)} images, sparsity {SPARSITY:.0%}\n")  # fmt: skip
        hessians = layer_hessians(model, x[seen[:CALIBRATION]])
        methods = {
            "exact OBC": lambda w, h: spade_ext.obc_prune(w, h, SPARSITY),
            "SparseGPT": lambda w, h: spade_ext.sparsegpt_prune(w, h, SPARSITY, block_size=9),
            "magnitude": lambda w, h: w.where(w.abs() > w.abs().flatten().quantile(SPARSITY), 0),
        }
        print(
            f"{'method':<11}{'layer':<8}{'rows x columns':<16}{'sparsity':>9}{'error':>10}{'time':>11}"
        )
        scores = {"dense": accuracy(model, x[held_out], y[held_out])}
        for method, prune in methods.items():
            pruned = copy.deepcopy(model)
            for name, h in hessians.items():
                layer = pruned.get_submodule(name)
                dense = layer.weight.flatten(1)
                start = time.perf_counter()
                sparse = prune(dense, h)
                seconds = time.perf_counter() - start
                change = sparse - dense
                error = ((change @ h) * change).sum() / ((dense @ h) * dense).sum()
                layer.weight.copy_(sparse.view_as(layer.weight))
                size = f"{dense.shape[0]} x {dense.shape[1]}"
                share = (sparse == 0).float().mean().item()
                print(
                    f"{method:<11}{name:<8}{size:<16}{share:>9.1%}{error:>10.2e}{seconds:>9.4f} s"
                )
            scores[method] = accuracy(pruned, x[held_out], y[held_out])
        print("\nerror: ||(W' - W) X||^2 / ||W X||^2 over the calibration images")
        print("accuracy on held-out images: "
              + ", ".join(f"{name} {score:.1%}" for name, score in scores.items()))  # fmt: skip


if __name__ == "__main__":
    main()
