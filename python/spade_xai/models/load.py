"""Models by name and weights by path; nothing is downloaded and no code in a weights file runs."""

import importlib
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

EXAMPLES = "torchvision:resnet50, timm:convnext_tiny, transformers:FOLDER, package.module:function"
# Where training scripts put the state dict inside a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class ModelError(ValueError):
    """A model cannot be made or its weights do not fit; the message says which and why."""


def load_model(
    spec: str, weights: str | Path | None = None, *, classes: int | None = None
) -> nn.Module:
    """Make the model that spec names, load weights into it, and return it in eval mode.

    Args:
        spec: `torchvision:NAME` or `timm:NAME`, a model of that library with random weights;
            `transformers:NAME`, a folder with a config.json, whose weights are loaded if none are given, or a model
            type such as vit or bert with its default configuration;
            `package.module:function`, a function without arguments that returns an nn.Module.
        weights: A state dict as a safetensors file or a torch file (read with weights_only=True); None: as made.
        classes: Number of outputs of the first three kinds of models; None: the library's default.

    Raises:
        ModelError: The spec is malformed, the library or the model is missing, or the weights do not fit.
    """
    kind, separator, name = spec.partition(":")
    if not separator or not kind or not name:
        raise ModelError(f"load_model: spec must be like {EXAMPLES}, got {spec!r}")
    if kind in _LIBRARIES:
        try:
            importlib.import_module(kind)
        except (ImportError, RuntimeError) as error:
            raise ModelError(f"load_model: {spec!r} needs the package {kind}: {error}") from error
        model = _LIBRARIES[kind](name, classes, weights is None)
    elif classes is not None:
        raise ModelError(f"load_model: classes must be None for {spec!r}, got {classes}")
    else:
        model = _call(kind, name)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _torchvision(name: str, classes: int | None, own_weights: bool) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        raise ModelError(f"load_model: torchvision has no model {name!r}")
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    return models.get_model(name, weights=None, **options)


def _timm(name: str, classes: int | None, own_weights: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ModelError(f"load_model: timm has no model {name!r}")
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    return timm.create_model(name, pretrained=False, **options)


def _transformers(name: str, classes: int | None, own_weights: bool) -> nn.Module:
    import transformers

    options: dict[str, Any] = {} if classes is None else {"num_labels": classes}
    folder = Path(name)
    if (folder / "config.json").is_file():
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **options)
    elif name in transformers.CONFIG_MAPPING:
        config = transformers.CONFIG_MAPPING[name](**options)
    else:
        raise ModelError(
            f"load_model: transformers: expected a folder with a config.json or a model type, got {name!r}"
        )
    images = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    texts = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) in images:
        factory: Any = transformers.AutoModelForImageClassification
    elif type(config) in texts:
        factory = transformers.AutoModelForSequenceClassification
    else:
        raise ModelError(
            f"load_model: transformers has no classifier of type {config.model_type!r}"
        )
    if own_weights and folder.is_dir():
        return _pretrained(factory, folder, config)
    return factory.from_config(config)


def _pretrained(factory: Any, folder: Path, config: Any) -> nn.Module:
    """Load the weights of the folder, which transformers renames on reading, all or none."""
    try:
        model, info = factory.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(f"load_model: cannot load the weights in {folder}: {error}") from error
    problems = {
        "missing in the file": sorted(info["missing_keys"]),
        "of another shape in the file": sorted(str(key[0]) for key in info["mismatched_keys"]),
        "not in the model": sorted(info["unexpected_keys"]),
    }
    for problem, keys in problems.items():
        if keys:
            raise ModelError(
                f"load_model: the weights in {folder} do not fit the model: first difference at {keys[0]!r}: {problem}"
            )
    return model


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}


def _call(module: str, function: str) -> nn.Module:
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"load_model: cannot import {module}:{function}: {error}") from error
    model = make() if callable(make) and not isinstance(make, nn.Module) else make
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"load_model: {module}:{function} must return an nn.Module, got {type(model).__name__}"
        )
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into model, which is changed only if every key and shape fits.

    Raises:
        ModelError: The file is missing or unreadable, holds something other than tensors, or the first key that
            differs, by name.
    """
    state = read_state(path)
    own = model.state_dict()
    for key, value in own.items():
        if key not in state:
            raise ModelError(
                f"load_weights: {path} does not fit the model: first difference at {key!r}: missing in the file"
            )
        if state[key].shape != value.shape:
            raise ModelError(
                f"load_weights: {path} does not fit the model: first difference at {key!r}: "
                f"expected shape {tuple(value.shape)}, got {tuple(state[key].shape)}"
            )
    for key in state:
        if key not in own:
            raise ModelError(
                f"load_weights: {path} does not fit the model: first difference at {key!r}: not in the model"
            )
    model.load_state_dict(state)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or torch file, without running code.

    A state dict under the key `state_dict`, `model_state_dict` or `model` is taken out; a prefix `module.` that
    all keys share (DataParallel) is dropped.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"read_state: no file {file}")
    try:
        if file.suffix == ".safetensors":
            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"read_state: {file} is not a torch file of tensors alone, which is all that is loaded"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"read_state: cannot read {file}: {error}") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()
    ):
        raise ModelError(f"read_state: {file} must hold a dict of tensors by name")
    if loaded and all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return dict(loaded)


def normalized(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Let a model that expects (x - mean) / std take images x in [0, 1].

    The normalisation is a batch norm without eps, which attribution rules and pruning know how to treat; the
    model's layers get the prefix `network.`.

    Args:
        model: Classifier of normalised images. Not modified; the result holds it.
        mean: Of each channel, subtracted.
        std: Of each channel, > 0.
    """
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != len(std) or not finite or min(std) <= 0:
        raise ValueError(
            "normalized: mean and std must have one finite entry a channel, std > 0, "
            f"got {mean} and {std}"
        )
    layer = nn.BatchNorm2d(len(mean), eps=0.0, affine=False)
    layer.running_mean = torch.tensor(mean, dtype=torch.float32)
    layer.running_var = torch.tensor(std, dtype=torch.float32) ** 2
    return nn.Sequential(OrderedDict(normalize=layer, network=model)).eval()
