"""Every public function and class has an example in its docstring, which runs as it stands, pasted alone."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import spade_ext
import spade_ext.adapters
import spade_ext.compat
import spade_ext.reference

ADAPTERS = [
    importlib.import_module(f"spade_ext.adapters.{found.name}")
    for found in pkgutil.iter_modules(spade_ext.adapters.__path__)
]
MODULES = [spade_ext, spade_ext.compat, spade_ext.reference, *ADAPTERS]
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
}
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def is_explained(thing):
    """Functions and classes need an example; errors, warnings and constants none."""
    if isinstance(thing, type):
        return not issubclass(thing, BaseException)
    return callable(thing)


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if is_explained(thing)])
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(PUBLIC[name]) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples, f"the docstring of {name} has no example (lines that begin with >>>)"
    assert not doctest.DocTestRunner(optionflags=FLAGS).run(example).failed, capsys.readouterr().out
