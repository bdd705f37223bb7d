"""Models by name and weights by path; no code in a weights file runs, and nothing is downloaded unless asked for."""

import importlib
import math
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spade_xai.models.efficientnet_lite import VARIANTS, load_efficientnet_lite

EXAMPLES = (
    "pretrained:efficientnet_lite0, torchvision:resnet50, timm:convnext_tiny, transformers:FOLDER, "
    "package.module:function"
)
# Where training scripts put the state dict inside a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class ModelError(ValueError):
    """A model cannot be made or its weights do not fit; the message says which and why."""


class RandomWeightsWarning(UserWarning):
    """A model was made without weights: what it answers, and whatever explains that, means nothing."""


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    classes: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Make the model that spec names, load weights into it, and return it in eval mode.

    Args:
        spec: `pretrained:NAME`, an ImageNet network whose weights are an installed package (extra `imagenet`), of
            `efficientnet_lite.VARIANTS`; `torchvision:NAME` or `timm:NAME`, a model of that library;
            `transformers:NAME`, a folder with a config.json, whose weights are loaded if none are given, or a model
            type such as vit or bert with its default configuration;
            `package.module:function`, a function without arguments that returns an nn.Module.
        weights: A state dict as a safetensors file or a torch file (read with weights_only=True); None: as made.
        classes: Number of outputs of a library's model; None: the library's default.
        pretrained: Whether a library's model gets the weights that the library downloads for it, where there is a
            network; a name in transformers is then one of its hub. Goes without weights and classes.

    Warns:
        RandomWeightsWarning: A library's model is made without weights: they are random.

    Raises:
        ModelError: The spec is malformed, the library or the model is missing, or the weights do not fit.
    """
    kind, separator, name = spec.partition(":")
    if not separator or not kind or not name:
        raise ModelError(f"load_model: spec must be like {EXAMPLES}, got {spec!r}")
    if pretrained and (weights is not None or classes is not None):
        raise ModelError(
            "load_model: pretrained must go without weights and classes, which it brings, "
            f"got weights={weights!r} and classes={classes}"
        )
    if kind in _LIBRARIES:
        try:
            importlib.import_module(kind)
        except (ImportError, RuntimeError) as error:
            raise ModelError(f"load_model: {spec!r} needs the package {kind}: {error}") from error
        model = _LIBRARIES[kind](name, classes, weights is None, pretrained)
        own = pretrained or (kind == "transformers" and Path(name).is_dir())
        if weights is None and not own:
            warnings.warn(
                f"load_model: {spec} has RANDOM weights, so its answers and their explanations mean nothing: give a "
                "file of weights, or ask for the library's with pretrained=True (--pretrained)",
                RandomWeightsWarning,
                stacklevel=2,
            )
    elif kind != "pretrained" and pretrained:
        raise ModelError(f"load_model: pretrained must be False for {spec!r}, got True")
    elif classes is not None:
        raise ModelError(f"load_model: classes must be None for {spec!r}, got {classes}")
    elif kind == "pretrained":
        model = _packaged(name)
    else:
        model = _call(kind, name)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _packaged(name: str) -> nn.Module:
    if name not in VARIANTS:
        raise ModelError(
            f"load_model: pretrained: expected one of {', '.join(VARIANTS)}, got {name!r}"
        )
    try:
        return load_efficientnet_lite(name)
    except (ModuleNotFoundError, ValueError, OSError) as error:
        raise ModelError(f"load_model: {error}") from error


def _torchvision(
    name: str, classes: int | None, own_weights: bool, pretrained: bool = False
) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        raise ModelError(f"load_model: torchvision has no model {name!r}")
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if not pretrained:
        return models.get_model(name, weights=None, **options)
    found = models.get_model_weights(name)
    if not len(found):
        raise ModelError(f"load_model: torchvision has no weights of {name!r}")
    try:
        # into the cache, and read without running code; get_model then finds them there
        found.DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return models.get_model(name, weights=found.DEFAULT)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise _not_downloaded(f"torchvision:{name}", error) from error


def _timm(name: str, classes: int | None, own_weights: bool, pretrained: bool = False) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ModelError(f"load_model: timm has no model {name!r}")
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        if not pretrained:
            raise
        raise _not_downloaded(f"timm:{name}", error) from error


def _not_downloaded(spec: str, error: Exception) -> ModelError:
    return ModelError(f"load_model: cannot download the weights of {spec}: {error}")


def _transformers(
    name: str, classes: int | None, own_weights: bool, pretrained: bool = False
) -> nn.Module:
    import transformers

    options: dict[str, Any] = {} if classes is None else {"num_labels": classes}
    folder = Path(name)
    if (folder / "config.json").is_file():
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **options)
    elif pretrained:
        try:
            config = transformers.AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise _not_downloaded(f"transformers:{name}", error) from error
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
    if pretrained or (own_weights and folder.is_dir()):
        return _own_weights(factory, name, config, local=folder.is_dir())
    return factory.from_config(config)


def _own_weights(factory: Any, name: str, config: Any, *, local: bool) -> nn.Module:
    """Load the weights of a folder or of the hub, which transformers renames on reading, all or none."""
    try:
        model, info = factory.from_pretrained(
            name,
            config=config,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(f"load_model: cannot load the weights in {name}: {error}") from error
    problems = {
        "missing in the file": sorted(info["missing_keys"]),
        "of another shape in the file": sorted(str(key[0]) for key in info["mismatched_keys"]),
        "not in the model": sorted(info["unexpected_keys"]),
    }
    for problem, keys in problems.items():
        if keys:
            raise ModelError(
                f"load_model: the weights in {name} do not fit the model: first difference at {keys[0]!r}: {problem}"
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
