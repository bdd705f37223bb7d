"""Settings of each data set, from `paper.toml`."""

import sys
from dataclasses import fields
from importlib import resources
from typing import Any

from spade_xai.choices import misnamed
from spade_xai.lottery.concepts import BankSettings
from spade_xai.lottery.folder import Pruning
from spade_xai.lottery.pcbm import PCBMSettings
from spade_xai.lottery.train import Training

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("cub", "ham10000", "folder", "shapes")


def settings_of(kind: str) -> dict[str, Any]:
    """What paper.toml says of a data set.

    Raises:
        ValueError: Another data set.
    """
    if kind not in KINDS:
        raise ValueError(f"lottery: {misnamed('data', KINDS, kind)}")
    source = resources.files("spade_xai.lottery").joinpath("paper.toml")
    return tomllib.loads(source.read_text(encoding="utf-8"))[kind]


def training_of(kind: str, **given: Any) -> Training:
    """How rounds are trained on a data set; what is given and not None counts instead."""
    return Training(**_chosen(Training, settings_of(kind), given))


def pruning_of(kind: str, **given: Any) -> Pruning:
    """How tickets are chosen on a data set; what is given and not None counts instead."""
    return Pruning(**_chosen(Pruning, settings_of(kind), given))


def bank_of(data: str, **given: Any) -> BankSettings:
    """How banks are fitted on a data set; what is given and not None counts instead."""
    chosen = _chosen(BankSettings, settings_of(data)["bank"], given)
    if "penalties" in chosen:
        chosen["penalties"] = tuple(chosen["penalties"])
    return BankSettings(**chosen)


def pcbm_settings_of(kind: str, **given: Any) -> PCBMSettings:
    """How bottlenecks are fitted on a data set; what is given and not None counts instead."""
    return PCBMSettings(**_chosen(PCBMSettings, settings_of(kind)["pcbm"], given))


def _chosen(kind: Any, said: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    merged = {key: value for key, value in said.items() if key in names}
    return merged | {key: value for key, value in given.items() if value is not None}
