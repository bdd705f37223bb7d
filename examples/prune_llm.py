"""Prune a small language model by SparseGPT, exact OBC and magnitude, and compare its perplexity.

    python examples/prune_llm.py [--steps 400] [--sparsity 0.5] [--pattern 2:4]

A LLaMA of four blocks (transformers' own code) is trained for a minute or two on the text of this repository's
documents, byte by byte, so that nothing is downloaded. Then `spade_ext.prune_model` prunes it for 64 pieces of the
training text, and its perplexity on a text that it has not seen is printed. With your own model only the call of
prune_model changes: give it `AutoModelForCausalLM.from_pretrained(...)` and batches of token ids.
"""

import argparse
import copy
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
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


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print and return the perplexity of each variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", help="n:m in place of a sparsity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args(arguments)
    train, test = texts()
    dense = trained(train, options.steps, options.seed)
    generator = torch.Generator().manual_seed(options.seed + 1)
    calibration = [{"input_ids": part} for part in pieces(train, 64, generator).split(16)]
    results = {"dense": perplexity(dense, test)}
    for method in ("magnitude", "sparsegpt", "obc"):
        model = copy.deepcopy(dense)
        if method == "magnitude":
            magnitude(model, options.sparsity, options.pattern)
        else:
            report: list[PrunedLayer] = spade_ext.prune_model(
                model, calibration, options.sparsity, method=method, pattern=options.pattern, layers="model.layers.*"
            )  # fmt: skip
            assert all(layer.status == "pruned" for layer in report)
        results[method] = perplexity(model, test)
    for name, value in results.items():
        print(f"{name:10} perplexity per byte {value:.2f}")
    if options.json:
        asked = {name: getattr(options, name) for name in ("steps", "sparsity", "pattern", "seed")}
        options.json.write_text(json.dumps({**asked, "perplexity": results}, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
