"""Imports of spade_xai run one way, take nothing private of spade_ext, and no method of pruning is told by its name."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import spade_xai

ROOT = Path(spade_xai.__file__).parent


def modules():
    """Name and syntax tree of every module."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree, names):
    """The modules that a module imports, inside functions too; those of packages of their own name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else node.module


def test_no_module_imports_itself_by_others():
    found = dict(modules())
    graph = {
        name: {x for x in imported(tree, found) if x in found and x != "spade_xai"}
        for name, tree in found.items()
        if name != "spade_xai"  # which gathers the public names
    }
    order = list(TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert set(order) == set(graph)


def test_nothing_private_of_spade_ext_is_imported():
    for name, tree in modules():
        for module in imported(tree, ()):
            assert not module.startswith("spade_ext._"), f"{name}: {module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "spade_ext":
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{name}: {private}"


def test_no_pruning_method_is_told_by_its_name():
    for name, tree in modules():
        if name.startswith(
            "spade_xai.lottery."
        ):  # whose criteria of the same names are scores of its own
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                told = {x.value for x in ast.walk(node) if isinstance(x, ast.Constant)}
                assert not told & {"obc", "sparsegpt"}, f"{name}, line {node.lineno}"
