"""The pruning methods by name, found in the modules of this folder."""

import importlib
import inspect
import pkgutil

from spade_xai.choices import misnamed
from spade_xai.tracing import pruning
from spade_xai.tracing.pruning.method import PruningMethod


def _found() -> list[PruningMethod]:
    """One object of each method."""
    kinds: set[type[PruningMethod]] = set()
    for module in pkgutil.iter_modules(pruning.__path__):
        if module.name != "registry":
            members = vars(importlib.import_module(f"{pruning.__name__}.{module.name}")).values()
            kinds.update(
                x
                for x in members
                if inspect.isclass(x) and issubclass(x, PruningMethod) and not inspect.isabstract(x)
            )
    return sorted((kind() for kind in kinds), key=lambda m: (m.place, m.name))


PRUNING_METHODS: dict[str, PruningMethod] = {method.name: method for method in _found()}
"""The methods by the names that `trace` takes."""

TRACERS: dict[str, str] = {method.title: method.name for method in PRUNING_METHODS.values()}
"""The paper's names of the methods, with the names that `trace` takes."""

_SPELLINGS = {
    name.lower(): m for m in PRUNING_METHODS.values() for name in (m.name, m.title, *m.aliases)
}


def method_of(function: str, name: object) -> PruningMethod:
    """The method of a name or a paper's name, in any case.

    Raises:
        ValueError: There is none.
    """
    method = _SPELLINGS.get(name.lower()) if isinstance(name, str) else None
    if method is None:
        raise ValueError(f"{function}: {misnamed('method', PRUNING_METHODS, name)}")
    return method
