"""Attributions of the tokens of a text, from a text of padding as the baseline."""

from typing import Any, cast

from torch import Tensor, nn

from spade_xai.attribution.attribute import attribute
from spade_xai.attribution.layer import embedding_name
from spade_xai.attribution.methods import OPTIONS, RECORDS, MethodName
from spade_xai.models.copies import duplicate, find_module
from spade_xai.models.inputs import device_of
from spade_xai.models.modes import outside_inference_mode
from spade_xai.models.tokens import Tokens

BASELINES = ("pad", "zero")
"""What counts as no text: padding between the special tokens, or embeddings of 0."""

TEXT_METHODS = tuple(name for name, record in RECORDS.items() if not record.feature_map)
"""The methods that explain tokens; the others look at a feature map of pixels."""


def pad_baseline(
    model: nn.Module, ids: Tensor, free: Tensor, pad: int, embedding: str | None = None
) -> Tensor:
    """The embeddings of a text whose tokens are padding, but for the special ones: [CLS] [PAD] ... [PAD] [SEP].

    Give it to `attribute` as `baseline` of token ids. Positions and token types are those of the text, as they are
    added behind the embedding.

    Args:
        model: With the embedding of the ids. Not modified.
        ids: Token ids [1, T]. Not modified.
        free: Bool [1, T]: tokens of the text, which are replaced.
        pad: Id of the padding.
        embedding: As in `attribute`.

    Returns:
        [1, T, E].

    Source: `transformers-interpret` (Pierse, 2021), which the paper's appendix D.3 uses.

    Example:
        >>> import torch
        >>> from spade_xai.attribution.tokens import pad_baseline
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4))
        >>> ids, free = torch.tensor([[1, 5, 2]]), torch.tensor([[False, True, False]])
        >>> blank = pad_baseline(model, ids, free, pad=0, embedding="0")
        >>> bool((blank[0, 1] == model[0].weight[0]).all()), bool((blank[0, 2] == model[0].weight[2]).all())
        (True, True)
    """
    with outside_inference_mode():
        network = duplicate(model)
        name = embedding_name(network, embedding)
        layer = find_module(network, name)
        if not isinstance(layer, nn.Module):
            raise ValueError(
                f"pad_baseline: embedding must name a layer of the model, got {name!r}"
            )
        blank: Tensor = layer(ids.masked_fill(free, pad))
        return blank.detach()


def token_map(
    model: nn.Module,
    tokens: Tokens,
    target: int,
    method: str,
    *,
    pad: int,
    baseline: str = "pad",
    seed: int = 0,
) -> Tensor:
    """The attributions [T] of one text's tokens, computed where the model is and given on the CPU.

    Args:
        model: Classifier of transformers. Not modified.
        tokens: The text.
        target: Class to explain.
        method: A name in TEXT_METHODS.
        pad: Id of the padding.
        baseline: A name in BASELINES, for methods that have one.
        seed: The seed of methods that sample.
    """
    tokens = tokens.to(device_of(model))
    options: dict[str, Any] = {}
    if baseline == "pad" and "baseline" in OPTIONS[method]:
        options["baseline"] = pad_baseline(model, tokens.ids, tokens.free, pad)
    found = attribute(
        model, tokens.ids, target, cast(MethodName, method), kwargs=tokens.further, seed=seed,
        progress=False, **options,
    )  # fmt: skip
    return found[0].float().cpu()
