"""What the packages offer: their public functions, classes and constants, by name."""

import builtins
import importlib
import inspect
import pkgutil
import sys

import spade_ext
import spade_ext.adapters
import spade_xai

ADAPTERS = [
    importlib.import_module(f"spade_ext.adapters.{found.name}")
    for found in pkgutil.iter_modules(spade_ext.adapters.__path__)
]


def public():
    """(name, thing) of all, in order; modules that a package lists are entered."""
    for module in (spade_ext, *ADAPTERS, spade_xai):
        yield from _inside(module, module.__name__)


def _inside(module, path):
    for name in _names(module):
        thing, full = getattr(module, name), f"{path}.{name}"
        if inspect.ismodule(thing):
            yield from _inside(thing, full)
        else:
            yield full, thing


def _names(module):
    """What a module lists as public, or else the functions and classes that it defines."""
    own = [n for n, thing in vars(module).items() if vars(_defining(thing)) is vars(module)]
    return sorted(getattr(module, "__all__", [n for n in own if not n.startswith("_")]))


def _defining(thing):
    """The module that defines a function or class."""
    return sys.modules.get(getattr(thing, "__module__", None) or "", builtins)
