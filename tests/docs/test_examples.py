"""Every public function and class has an example in its docstring, which runs as it stands, pasted alone."""

import doctest
import inspect

import pytest
from public_names import public

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def is_explained(thing):
    """Functions and classes need an example; errors, warnings and constants none."""
    if isinstance(thing, type):
        return not issubclass(thing, BaseException)
    return callable(thing)


EXPLAINED = {name: thing for name, thing in public() if is_explained(thing)}


@pytest.mark.parametrize("name", EXPLAINED)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(EXPLAINED[name]) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples, f"the docstring of {name} has no example (lines that begin with >>>)"
    assert not doctest.DocTestRunner(optionflags=FLAGS).run(example).failed, capsys.readouterr().out
