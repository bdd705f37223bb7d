"""A network of several labels as a classifier of one of them, so that what explains an answer explains that label."""

import torch
from torch import Tensor, nn

from spade_ext.checks import check_int
from spade_xai.models.copies import duplicate, unwrap


def one_label(model: nn.Module, label: int, example: Tensor) -> nn.Module:
    """A copy of the model that answers 1 where the model gives the label, and 0 where it does not.

    Of the label's logit z = w . h + b the last linear layer gives (-z / 2, z / 2): the larger one says whether z > 0,
    and the softmax of the second is sigmoid(z), the probability of the label. The names of layers stay.

    Args:
        model: Its outputs [B, labels] are those of an nn.Linear. Not modified.
        label: Which of them, from 0.
        example: Inputs of the model, to see that the copy gives what it should.

    Raises:
        ValueError: label is not one of the model's, or no nn.Linear gives the model's outputs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai.models.one_label import one_label
        >>> model, x = nn.Linear(4, 40), torch.rand(2, 4)
        >>> one_label(model, 3, x)(x).argmax(1).equal((model(x)[:, 3] > 0).long())
        True
    """
    with torch.no_grad():
        whole = duplicate(model)
        logits = unwrap(whole(example))
        check_int("one_label", "label", label, 0, logits.shape[1] - 1)
        expected = torch.stack([-logits[:, label] / 2, logits[:, label] / 2], 1)
        heads = [
            name
            for name, module in whole.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == logits.shape[1]
        ]
        close = max(1e-4, 8 * torch.finfo(logits.dtype).eps)
        for name in reversed(heads):
            copy = _with_rows(duplicate(model), name, label)
            if torch.allclose(unwrap(copy(example)), expected, rtol=close, atol=close / 10):
                return copy
    raise ValueError(
        f"one_label: model's {logits.shape[1]} outputs must be those of an nn.Linear, got another last layer"
    )


def _with_rows(model: nn.Module, name: str, label: int) -> nn.Module:
    """The model with the rows of one label, of either sign, in place of those of all."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    rows = nn.Linear(layer.in_features, 2, bias=layer.bias is not None)
    signs = torch.tensor([-0.5, 0.5]).to(layer.weight)
    rows = rows.to(layer.weight)
    rows.weight.copy_(signs[:, None] * layer.weight[label])
    if layer.bias is not None:
        rows.bias.copy_(signs * layer.bias[label])
    if not name:
        return rows.eval()
    model.set_submodule(name, rows.eval())
    return model
