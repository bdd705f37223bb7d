"""The networks that are traced: torchvision's, with random weights."""

import importlib.util
import sys

import torch
from torch import nn

from benchmarks import ROOT


def network(name: str, device: str = "cpu") -> nn.Module:
    """A network of torchvision with seeded random weights, in eval mode."""
    models = _torchvision_models()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.get_model(name, weights=None)
    return model.eval().to(device)


def language_model(width: int, heads: int, length: int) -> nn.Module:
    """Two blocks of OPT with seeded random weights, in eval mode, for 200 tokens."""
    _torchvision_models()  # transformers imports torchvision
    from transformers import OPTConfig, OPTForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=200, hidden_size=width, word_embed_proj_dim=width, ffn_dim=4 * width, num_hidden_layers=2,
            num_attention_heads=heads, max_position_embeddings=length,
        )  # fmt: skip
        return OPTForCausalLM(config).eval()


def _torchvision_models():
    """torchvision.models; where its compiled part does not load, with its operators declared as in the tests."""
    path = ROOT / "tests" / "support" / "torchvision_operators.py"
    spec = importlib.util.spec_from_file_location("torchvision_operators", path)
    # The module is kept: the declarations live as long as it does.
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "declare"):
        spec.loader.exec_module(module)
    module.declare()
    from torchvision import models

    return models
