"""Prune a small language model by SparseGPT, exact OBC and magnitude, and compare its perplexity.

    python examples/prune_llm.py [--steps 400] [--sparsity 0.5 0.7 2:4] [--json FILE]

A LLaMA of four blocks (transformers' own code) is trained for a few minutes on the text of this repository's
documents, byte by byte, so that nothing is downloaded. Then `spade_ext.prune_model` prunes it for 64 pieces of the
training text, and its perplexity on a text that it has not seen is printed. With your own model only the call of
prune_model changes: give it `AutoModelForCausalLM.from_pretrained(...)` and batches of token ids.
"""

import argparse
import copy
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # A build for another PyTorch. transformers imports torchvision where it finds it, and language models need none.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
from transformers import LlamaConfig, LlamaForCausalLM

import spade_ext
from spade_ext.prune_model import PrunedLayer

ROOT = Path(__file__).parents[1]
LENGTH = 128  # bytes per piece


def texts() -> tuple[Tensor, Tensor]:
    """Bytes to train on, from the documents, and bytes to test on, from the guide: int64."""
    documents = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "LICENSE"]
    held_out = ROOT / "docs" / "guide.md"
    train = b"\n".join(path.read_bytes() for path in documents if path != held_out)
    return tuple(torch.tensor(list(text)) for text in (train, held_out.read_bytes()))  # type: ignore[return-value]


def pieces(text: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, LENGTH] random pieces of a text."""
    begin = torch.randint(len(text) - LENGTH, (count, 1), generator=generator)
    return text[begin + torch.arange(LENGTH)]


def trained(text: Tensor, steps: int, seed: int) -> nn.Module:
    """A LLaMA of 0.8 million weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=LENGTH, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = pieces(text, 16, generator)
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def perplexity(model: nn.Module, text: Tensor) -> float:
    """Exponential of the mean loss per byte, over all whole pieces of a text."""
    whole = text[: len(text) // LENGTH * LENGTH].view(-1, LENGTH)
    losses = [model(part, labels=part).loss.item() * len(part) for part in whole.split(32)]
    return math.exp(sum(losses) / len(whole))


def magnitude(model: nn.Module, sparsity: float, pattern: str | None) -> None:
    """The control: the smallest weights of each layer go, without compensation."""
    for layer in model.get_submodule("model.layers").modules():
        if not isinstance(layer, nn.Linear):
            continue
        weight = layer.weight.data
        if pattern:
            n, m = map(int, pattern.split(":"))
            groups = weight.view(-1, m)
            groups.scatter_(1, groups.abs().argsort(dim=1)[:, :n], 0)
        else:
            weight.view(-1)[weight.abs().flatten().argsort()[: int(sparsity * weight.numel())]] = 0


def pruned(
    dense: nn.Module, method: str, target: str, calibration: list[dict[str, Tensor]]
) -> nn.Module:
    """A copy of the model, pruned to a share of the weights of each layer of its blocks, or to a pattern n:m."""
    model = copy.deepcopy(dense)
    pattern = target if ":" in target else None
    sparsity = 0.0 if pattern else float(target)
    if method == "magnitude":
        magnitude(model, sparsity, pattern)
        return model
    report: list[PrunedLayer] = spade_ext.prune_model(
        model, calibration, sparsity, method=method, pattern=pattern, layers="model.layers.*"
    )  # fmt: skip
    assert all(layer.status == "pruned" for layer in report)
    return model


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Print and return the perplexity per byte of each method at each target, beside that of the dense model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument(
        "--sparsity", nargs="+", default=["0.5"], metavar="TARGET", help="shares of the weights, or patterns n:m"
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args(arguments)
    train, test = texts()
    dense = trained(train, options.steps, options.seed)
    generator = torch.Generator().manual_seed(options.seed + 1)
    calibration = [{"input_ids": part} for part in pieces(train, 64, generator).split(16)]
    without = perplexity(dense, test)
    results = {}
    for target in options.sparsity:
        results[target] = {"dense": without}
        for method in ("magnitude", "sparsegpt", "obc"):
            results[target][method] = perplexity(pruned(dense, method, target, calibration), test)
        values = ", ".join(f"{name} {value:.2f}" for name, value in results[target].items())
        print(f"{target} pruned, perplexity per byte: {values}")
    if options.json:
        about = {
            "steps": options.steps,
            "seed": options.seed,
            "bytes": {"train": len(train), "test": len(test)},
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }
        options.json.write_text(json.dumps({**about, "perplexity": results}, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
