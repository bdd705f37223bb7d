"""Every op in plain PyTorch, any float dtype: the oracle of the tests and the baseline of the benchmarks.

What the modules of this package list in `__all__` is here by name.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

__all__: list[str] = []
for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    for _name in _module.__all__:
        globals()[_name] = getattr(_module, _name)
        __all__ += [_name]
__all__.sort()


def __getattr__(name: str) -> Callable[..., Any]:
    """Say to type checkers that the names that were found are functions."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
