"""The toy experiment of the paper's Figure 3: what one neuron looks for, and what it looks for on one sample.

Points in the plane are positive inside a large or a small circle. A network with one hidden layer of 1000 neurons tells
them from the rest. Visualising its output finds the large circle only; after pruning for a point of the small circle it
finds the small one.

    python examples/two_circles.py [PICTURE.png]
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from spade_xai import trace
from spade_xai.features.visualize import visualize
from spade_xai.reports.figure import png
from spade_xai.reports.page import write_atomically

CIRCLES = {"large": (-1.0, 0.0, 1.0), "small": (1.5, 0.0, 0.5)}  # x, y, radius
STARTS = ((-1.5, 1.0), (-1.5, -1.0), (1.5, 1.0), (1.5, -1.0))


def inside(points: Tensor, circle: str) -> Tensor:
    """Which of the points [N, 2] lie in a circle, bool [N]."""
    x, y, radius = CIRCLES[circle]
    return (points - torch.tensor([x, y])).norm(dim=1) < radius


def train(steps: int = 300) -> tuple[nn.Module, float]:
    """A network trained to tell the circles from the rest, and its accuracy on new points."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 1000), nn.ReLU(), nn.Linear(1000, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, steps)
    for _ in range(steps):
        points = torch.rand(512, 2) * 5 - 2.5
        label = inside(points, "large") | inside(points, "small")
        loss = nn.functional.binary_cross_entropy_with_logits(model(points)[:, 0], label.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    points = torch.rand(4000, 2) * 5 - 2.5
    label = inside(points, "large") | inside(points, "small")
    right = (model(points)[:, 0] > 0) == label
    return model.eval(), float(right.double().mean())


def optimum(model: nn.Module) -> Tensor:
    """The point [2] of greatest response that visualisation reaches from a few starts."""
    found = [visualize(model, 0, (2,), start=torch.tensor(s), steps=150) for s in STARTS]
    with torch.no_grad():
        return max(found, key=lambda point: float(model(point[None])))


def pruned_for(model: nn.Module, point: Tensor) -> nn.Module:
    """The network pruned for a point [2], whose augmentations are points around it."""
    return trace(
        model,
        point[None],
        sparsity={"2": 0.9},
        augment=lambda batch: batch + 0.2 * torch.randn_like(batch),
        augmentations=256,
        progress=False,
    ).model


def draw(models: dict[str, tuple[nn.Module, Tensor | None]]) -> bytes:
    """Each model's response over the plane with its optimum (green) and the sample (red), as a PNG file."""
    figure = Figure(figsize=(3.2 * len(models), 3.5), layout="constrained")
    ticks = torch.linspace(-2.5, 2.5, 101)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).flatten(0, 1)
    for axis, (title, (model, sample)) in zip(
        figure.subplots(1, len(models)), models.items(), strict=True
    ):
        with torch.no_grad():
            response = model(grid)[:, 0].view(101, 101)
        limit = float(response.max())
        axis.pcolormesh(ticks, ticks, response, cmap="coolwarm", vmin=-limit, vmax=limit)
        for x, y, radius in CIRCLES.values():
            angle = torch.linspace(0, 2 * torch.pi, 100)
            axis.plot(x + radius * angle.cos(), y + radius * angle.sin(), "k", lw=0.8)
        axis.plot(*optimum(model).tolist(), "o", color="lime", mec="black")
        if sample is not None:
            axis.plot(*sample.tolist(), "o", color="red", mec="black", ms=4)
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
    return png(figure)


def main() -> None:
    """Train, prune, print where the optima lie, draw."""
    model, accuracy = train()
    print(f"accuracy {accuracy:.1%}")
    models: dict[str, tuple[nn.Module, Tensor | None]] = {"dense": (model, None)}
    for name, (x, y, radius) in CIRCLES.items():
        sample = torch.tensor([x + radius / 3, y + radius / 3])
        models[f"pruned for a point of the {name} circle"] = (pruned_for(model, sample), sample)
    for title, (each, _) in models.items():
        print(f"{title}: greatest response at {[round(v, 2) for v in optimum(each).tolist()]}")
    if len(sys.argv) > 1:
        write_atomically(Path(sys.argv[1]), draw(models))


if __name__ == "__main__":
    main()
