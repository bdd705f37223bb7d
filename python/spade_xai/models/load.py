"""Models by name and weights by path; no code in a weights file runs, and nothing is downloaded unless asked for."""

import importlib
import importlib.util
import math
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spade_xai.choices import misnamed
from spade_xai.models.efficientnet_lite import VARIANTS, load_efficientnet_lite
from spade_xai.models.weights import ModelError, first_line, load_weights, read_state

EXAMPLES = (
    "pretrained:efficientnet_lite0, torchvision:resnet50, timm:convnext_tiny, transformers:FOLDER, "
    "package.module:function"
)


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
            `efficientnet_lite.VARIANTS`; `torchvision:NAME` or `timm:NAME`, a model of that library (with weights,
            GoogLeNet and Inception v3 transform their input, as torchvision sets it for its own files);
            `transformers:NAME`, a folder with a config.json, whose weights are loaded if none are given, or a model
            type such as vit or bert with its default configuration;
            `package.module:function` or `path/to/file.py:function`, a function without arguments that returns an
            nn.Module; modules in the working directory are found too.
        weights: A state dict as a safetensors file or a torch file (read with weights_only=True); None: as made.
        classes: Number of outputs of a library's model; None: the library's default.
        pretrained: Whether a library's model gets the weights that the library downloads for it, where there is a
            network; a name in transformers is then one of its hub. Goes without weights and classes.

    Warns:
        RandomWeightsWarning: A library's model is made without weights: they are random.

    Raises:
        ModelError: The spec is malformed, the library or the model is missing, or the weights do not fit.

    Example:
        >>> from spade_xai import load_model
        >>> model = load_model("torch.nn:Identity")
        >>> model.training
        False
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
        model = _LIBRARIES[kind](
            name, classes, None if weights is None else Path(weights), pretrained
        )
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
        raise ModelError(f"load_model: {misnamed('pretrained', VARIANTS, name)}")
    try:
        return load_efficientnet_lite(name)
    except (ModuleNotFoundError, ValueError, OSError) as error:
        raise ModelError(f"load_model: {error}") from error


def _torchvision(
    name: str, classes: int | None, weights: Path | None, pretrained: bool
) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        raise ModelError(f"load_model: torchvision has no model {name!r}")
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if not pretrained:
        return models.get_model(name, weights=None, **options, **_as_pretrained(name, weights))
    found = models.get_model_weights(name)
    if not len(found):
        raise ModelError(f"load_model: torchvision has no weights of {name!r}")
    try:
        # into the cache, and read without running code; get_model then finds them there
        found.DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return models.get_model(name, weights=found.DEFAULT)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise _not_downloaded(f"torchvision:{name}", error) from error


def _as_pretrained(name: str, weights: Path | None) -> dict[str, Any]:
    """What torchvision's builders of these two models set where weights are given; see their sources."""
    heads = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}
    if name not in heads:
        return {}
    if weights is None:
        return {"init_weights": False}  # else a warning, and minutes of drawing
    auxiliary = any(f".{heads[name]}" in f".{key}" for key in read_state(weights))
    return {"transform_input": True, "aux_logits": auxiliary, "init_weights": False}


def _timm(name: str, classes: int | None, weights: Path | None, pretrained: bool) -> nn.Module:
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
    name: str, classes: int | None, weights: Path | None, pretrained: bool
) -> nn.Module:
    import transformers

    options: dict[str, Any] = {} if classes is None else {"num_labels": classes}
    folder = Path(name)
    if (folder / "config.json").is_file():
        try:
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:  # a config.json may hold anything
            raise ModelError(
                f"load_model: cannot read the config.json in {folder}: {first_line(error)}"
            ) from None
    elif pretrained:
        try:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
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
    if pretrained or (weights is None and folder.is_dir()):
        return _own_weights(factory, name, config, local=folder.is_dir())
    return factory.from_config(config, trust_remote_code=False)


def _own_weights(factory: Any, name: str, config: Any, *, local: bool) -> nn.Module:
    """Load the weights of a folder or of the hub, which transformers renames on reading, all or none."""
    try:
        model, info = factory.from_pretrained(
            name,
            config=config,
            local_files_only=local,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # damaged files raise nearly everything
        raise ModelError(
            f"load_model: cannot load the weights in {name}: {first_line(error)}"
        ) from None
    problems = {
        "missing in the file": sorted(info["missing_keys"]),
        "of another shape in the file": sorted(str(key[0]) for key in info["mismatched_keys"]),
        "not in the model": sorted(info["unexpected_keys"]),
    }
    told = [
        f"{len(keys)} {problem}, such as {keys[0]!r}" for problem, keys in problems.items() if keys
    ]
    if told:
        count = len(model.state_dict())
        fitting = count - sum(len(keys) for keys in list(problems.values())[:2])
        raise ModelError(
            f"load_model: the weights in {name} do not fit the model: {fitting} of {count} names fit, "
            + "; ".join(told)
        )
    return model


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}


def _call(module: str, function: str) -> nn.Module:
    try:
        make = getattr(_imported(module), function)
    except (Exception, SystemExit) as error:  # the module's own code may raise anything
        raise ModelError(
            f"load_model: cannot import {module}:{function}: {first_line(error)}"
        ) from error
    try:
        model = make() if callable(make) and not isinstance(make, nn.Module) else make
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"load_model: {module}:{function}, called without arguments, must return an nn.Module, "
            f"got {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"load_model: {module}:{function} must return an nn.Module, got {type(model).__name__}"
        )
    return model


def _imported(module: str) -> types.ModuleType:
    """The module of a name, also in the working directory, or of a file that ends in .py."""
    file = Path(module)
    if file.suffix == ".py":
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise ImportError(f"no file {file}")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, loaded)  # where classes of the file are looked for
        spec.loader.exec_module(loaded)
        return loaded
    sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.pop()


def normalized(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Let a model that expects (x - mean) / std take images x in [0, 1].

    The normalisation is a batch norm without eps, which attribution rules and pruning know how to treat; the
    model's layers get the prefix `network.`.

    Args:
        model: Classifier of normalised images. Not modified; the result holds it.
        mean: The mean of each channel, subtracted.
        std: The standard deviation of each channel, > 0.
    """
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != len(std) or not finite or min(std) <= 0:
        raise ValueError(
            "normalized: mean and std must have one finite entry per channel, std > 0, "
            f"got {mean} and {std}"
        )
    layer = nn.BatchNorm2d(len(mean), eps=0.0, affine=False)
    layer.running_mean = torch.tensor(mean, dtype=torch.float32)
    layer.running_var = torch.tensor(std, dtype=torch.float32) ** 2
    return nn.Sequential(OrderedDict(normalize=layer, network=model)).eval()
