"""Sparsity of each layer: one ratio, a rule over the depth of a layer, patterns, or a file."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spade_ext.checks import check_int
from spade_ext.files import is_signed, parse_json
from spade_xai.choices import misnamed
from spade_xai.models.layers import Layer, check_pattern, fitting, matches
from spade_xai.tracing.published import PUBLISHED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["GRID", "last_block", "last_blocks", "linear", "load", "paper", "patterns", "uniform"]

GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
"""The ratios of the paper's experiments (appendix B)."""

SPARSITY_FORMAT = "spade_xai.Sparsity.1"
"""Of the JSON files that tuning writes; files without a format are read too."""

Schedule = Callable[[Sequence[str]], dict[str, float]]
"""Takes the layers' names in order of execution, returns the ratio of each; a missing one stays dense."""

FAITHFUL = "faithful"
"""Stands for ratios that are chosen for each sample, as large as the trace stays faithful; see `trace`."""

PAPER = "paper:"
"""Before the name of a sparsity that the paper states; see `paper`."""

Sparsity = float | str | os.PathLike[str] | Mapping[str, float] | Schedule


def uniform(ratio: float) -> Schedule:
    """The same ratio in every layer.

    Example:
        >>> from spade_xai import schedule
        >>> schedule.uniform(0.9)(["conv", "fc"])
        {'conv': 0.9, 'fc': 0.9}
    """
    check_ratio("schedule.uniform", "ratio", ratio)
    return lambda names: dict.fromkeys(names, ratio)


def linear(last: float = 0.99, *, grid: Sequence[float] | None = GRID) -> Schedule:
    """Ratios that rise linearly with the layer's place from 0 in the first to `last` in the last.

    Args:
        last: Ratio of the last layer.
        grid: Each ratio is rounded to the nearest of these; None leaves it.

    Source: appendix B of the paper.

    Example:
        >>> from spade_xai import schedule
        >>> schedule.linear(0.9, grid=None)(["first", "middle", "last"])
        {'first': 0.0, 'middle': 0.45, 'last': 0.9}
    """
    check_ratio("schedule.linear", "last", last)
    for ratio in grid or ():
        check_ratio("schedule.linear", "grid", ratio)

    def assign(names: Sequence[str]) -> dict[str, float]:
        steps = len(names) - 1
        exact = [last * i / steps if steps else last for i in range(len(names))]
        if grid:
            # distances to 9 digits: two grid values equally near (.85 and .8, .9) give the lower one
            exact = [min(grid, key=lambda g: (round(abs(g - r), 9), g)) for r in exact]
        return dict(zip(names, exact, strict=True))

    return assign


def last_block(ratio: float = 0.99, *, pattern: str | None = None) -> Schedule:
    """One ratio in the last block of the network, nothing elsewhere.

    Without a pattern the block is the last group of several layers before the head: going down from the model, the
    last child that holds more than one layer, as long as that child holds more than half of all layers. It is
    `layer4` of a ResNet, `features.7` of a torchvision ConvNeXt, the last encoder layer of a transformer. A plain
    stack of layers has no block; its last layer is taken.

    Source: appendix H of the paper ("pruning the fourth component").

    Example:
        >>> from spade_xai import schedule
        >>> schedule.last_block(0.99)(["stem", "block1.a", "block1.b", "block2.a", "block2.b", "head"])
        {'block2.a': 0.99, 'block2.b': 0.99}
    """
    check_ratio("schedule.last_block", "ratio", ratio)

    def assign(names: Sequence[str]) -> dict[str, float]:
        if not names:
            raise ValueError("schedule.last_block: names must hold a layer, got none")
        block = pattern or find_last_block(names)
        chosen = fitting(names, block)
        if not chosen:
            raise ValueError(f"schedule.last_block: pattern must take a layer, got {block!r}")
        return dict.fromkeys(chosen, ratio)

    return assign


def last_blocks(count: int, ratio: float = 0.99) -> Schedule:
    """One ratio in the last blocks of the network and in the head after them, nothing elsewhere.

    The last block is that of last_block; the blocks before it are its siblings, such as `layer3` of a ResNet. Every
    layer from the first of the chosen blocks on gets the ratio, the head among them.

    Args:
        count: How many blocks.
        ratio: The ratio of their layers and of the head.

    Example:
        >>> from spade_xai import schedule
        >>> schedule.last_blocks(2, 0.9)(["stem", "a.0", "a.1", "b.0", "b.1", "c.0", "c.1", "head"])
        {'b.0': 0.9, 'b.1': 0.9, 'c.0': 0.9, 'c.1': 0.9, 'head': 0.9}
    """
    check_int("schedule.last_blocks", "count", count, 1)
    check_ratio("schedule.last_blocks", "ratio", ratio)

    def assign(names: Sequence[str]) -> dict[str, float]:
        if not names:
            raise ValueError("schedule.last_blocks: names must hold a layer, got none")
        blocks = find_blocks(names)
        if count > len(blocks):
            raise ValueError(
                f"schedule.last_blocks: count must be at most the {len(blocks)} blocks of the network, got {count}"
            )
        first = next(i for i, name in enumerate(names) if matches(name, blocks[-count]))
        return dict.fromkeys(names[first:], ratio)

    return assign


def find_last_block(names: Sequence[str]) -> str:
    """Name of the last block, as last_block says."""
    return find_blocks(names)[-1]


def find_blocks(names: Sequence[str]) -> list[str]:
    """Names of the last block and its siblings of several layers, in their order; of a plain stack, its layers."""
    prefix, inside = "", list(names)
    while True:
        children: dict[str, list[str]] = {}
        for name in inside:
            children.setdefault(prefix + name[len(prefix) :].split(".")[0], []).append(name)
        blocks = [child for child, members in children.items() if len(members) > 1]
        if not blocks:
            return inside
        block = blocks[-1]
        if 2 * len(children[block]) <= len(names):
            return blocks
        prefix, inside = f"{block}.", children[block]


def paper(name: str) -> Schedule:
    """A sparsity that the paper states, by its name.

    `linear`, the rule of appendix B, fits every network. The others name layers of torchvision's ResNet50:
    `human-study` (appendix K), `figure-j11` (class visualisations), and `resnet50-lrp-fast`, the ratios that were
    tuned for FastSPADE with LRP.

    Source: the paper and the notebook of its code.

    Example:
        >>> from spade_xai import schedule
        >>> schedule.paper("human-study")(["layer3.0.conv1", "layer4.0.conv1", "fc"])
        {'layer4.0.conv1': 0.99}
    """
    if name == "linear":
        return linear()
    if name not in PUBLISHED:
        raise ValueError(f"schedule.paper: {misnamed('name', ['linear', *PUBLISHED], name)}")
    return patterns(PUBLISHED[name])


def patterns(ratios: Mapping[str, float]) -> Schedule:
    """Ratios by dotted globs or `re:` patterns; the last pattern that takes a layer counts.

    Layers that no pattern takes stay dense.

    Example:
        >>> from spade_xai import schedule
        >>> schedule.patterns({"block*": 0.9, "block1.a": 0.5})(["stem", "block1.a", "block2.a"])
        {'block1.a': 0.5, 'block2.a': 0.9}
    """
    for pattern, ratio in ratios.items():
        check_ratio("schedule.patterns", repr(pattern), ratio)

    def assign(names: Sequence[str]) -> dict[str, float]:
        found = {}
        for pattern, ratio in ratios.items():
            found.update(dict.fromkeys(fitting(names, pattern), ratio))
        return found

    return assign


def load(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read patterns and ratios from a JSON or TOML file, at its top or under "sparsity".

    Raises:
        FileNotFoundError: No such file.
        ValueError: Neither JSON nor TOML, not a table of ratios, or a file of `tune` that was changed.

    Example:
        >>> from spade_xai import schedule
        >>> from pathlib import Path
        >>> _ = Path("ratios.json").write_text('{"layer4": 0.9}')
        >>> schedule.load("ratios.json")
        {'layer4': 0.9}
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        data: Any = tomllib.loads(text) if file.suffix == ".toml" else parse_json(text)
    except RecursionError:
        raise ValueError(f"schedule.load: {file} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(
            f"schedule.load: {file} must be JSON, or TOML if so named: {error}"
        ) from None
    if isinstance(data, dict) and "digest" in data and not is_signed(data):
        raise ValueError(
            f'schedule.load: {file} was changed after `tune` wrote it: if that was meant, remove its "digest"'
        )
    table = data.get("sparsity", data) if isinstance(data, dict) else data
    if not isinstance(table, dict) or not table:
        raise ValueError(f"schedule.load: {file} must hold a table of patterns and ratios")
    for pattern, ratio in table.items():
        try:
            check_ratio(f"schedule.load: {file}", repr(pattern), ratio)
        except TypeError as error:
            raise ValueError(str(error)) from None
    return {pattern: float(ratio) for pattern, ratio in table.items()}


def resolve_sparsity(
    function: str, sparsity: Sparsity, layers: Sequence[Layer], others: Sequence[Layer] = ()
) -> dict[str, float]:
    """The ratio of every layer, 0 where the schedule gives none.

    Args:
        function: Named in errors.
        sparsity: A ratio, a schedule, patterns and ratios, the path of a file with them, or `paper:NAME`.
        layers: In order of execution.
        others: Layers of the model that are not pruned, for better errors.

    Raises:
        ValueError: A ratio outside [0, 1], a pattern that takes no layer.
    """
    names = [layer.name for layer in layers]
    if isinstance(sparsity, str) and sparsity.startswith(PAPER):
        name = sparsity.removeprefix(PAPER)
        paper(name)  # refuses a name that is not known
        sparsity = PUBLISHED.get(name, linear())
    elif isinstance(sparsity, (str, os.PathLike)):
        sparsity = load(sparsity)
    if isinstance(sparsity, Mapping):
        for pattern in sparsity:
            check_pattern(pattern, layers, others, function, "sparsity")
        ratios = patterns(sparsity)(names)
    elif callable(sparsity):
        found = sparsity(names)
        if not isinstance(found, Mapping):
            raise TypeError(
                f"{function}: sparsity must return ratios by name, got {type(found).__name__}"
            )
        ratios = dict(found)
    else:
        ratios = dict.fromkeys(names, check_ratio(function, "sparsity", sparsity))
    for name, ratio in ratios.items():
        if name not in names:
            raise ValueError(f"{function}: sparsity must name layers of the model, got {name!r}")
        check_ratio(function, f"sparsity of {name}", ratio)
    return {name: float(ratios.get(name, 0.0)) for name in names}


def check_ratio(function: str, name: str, value: object) -> float:
    """Return value as a float if it is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: {name} must be in [0, 1], got {value}")
    return float(value)
