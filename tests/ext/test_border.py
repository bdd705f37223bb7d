"""The stub of the binding, _C.pyi, which the build writes, names what the compiled module has."""

import ast
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch

import spade_ext
from spade_ext import _C

ROOT = Path(__file__).parents[2]
STUB = Path(_C.__file__).with_name("_C.pyi")


def stub():
    """Kinds of the arguments of each function of the stub, and its result."""
    found = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            kinds = [ast.unparse(x.annotation).partition("[")[0] for x in node.args.args]
            found[node.name] = kinds, ast.unparse(node.returns).partition("[")[0]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            found[node.targets[0].id] = found[node.value.id]
    return found


def kind(text):
    """The kind of an argument as pybind11 writes its type."""
    for pattern, name in (("Sequence", "Sequence"), ("[Ff]loat", "float"), ("object", "object")):
        if re.search(pattern, text):
            return name
    return "int" if "Int" in text or "int" in text else text


def compiled():
    """The same of the compiled module, from the signatures that pybind11 writes."""
    found = {}
    for name in dir(_C):
        function = getattr(_C, name)
        if name.startswith("__") or not callable(function):
            continue
        arguments, _, result = function.__doc__.splitlines()[0].rpartition(" -> ")
        parts = re.split(r"arg\d+: ", arguments)[1:]
        found[name] = [kind(part) for part in parts], result.partition("[")[0]
    return found


def test_the_stub_names_every_function_with_its_arguments():
    assert stub() == compiled()


def test_no_function_of_the_binding_is_looked_up_by_a_made_up_name():
    for path in [*ROOT.glob("spade_ext/**/*.py"), *ROOT.glob("python/**/*.py")]:
        assert not re.search(r"getattr\((spade_ext\.)?_C\b", path.read_text()), path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("op", ["hessian", "obc_prune", "sparsegpt_prune", "damped_inverse"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_works_on_one_thread(op):
    """An OpenMP runtime that ran before a fork waits in the child for threads that are not there."""
    x = torch.randn(2000, 128)
    h = x.T @ x
    weight = torch.randn(64, 128)
    calls = {
        "hessian": lambda: spade_ext.hessian(x, threads=2),
        "damped_inverse": lambda: spade_ext.damped_inverse(h, threads=2)[0],
        "obc_prune": lambda: spade_ext.obc_prune(weight, h, 0.5, threads=2),
        "sparsegpt_prune": lambda: spade_ext.sparsegpt_prune(weight, h, 0.5, threads=2),
    }
    expected = calls[op]()  # OpenMP has run
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(0 if expected.numpy().tobytes() == calls[op]().numpy().tobytes() else 1)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done[0] == child and os.waitstatus_to_exitcode(done[1]) == 0
