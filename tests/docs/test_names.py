"""The public names, held against a list: none of the list is taken away, renamed or given other parameters.

Names that are new need not be listed until a release. Then, and after an intended change of a listed name, write the
list anew: `python tests/docs/test_names.py`.
"""

import inspect
import re
from pathlib import Path

from public_names import public

from spade_xai.cli import ENTRIES, loaded

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("public_names.txt")
HEADERS = ["spade.h", "cuda.h"]


def parameters(thing):
    """The names of a function's parameters, keywords after a star."""
    try:
        found = inspect.signature(thing).parameters.values()
    except (ValueError, TypeError):  # errors and warnings take what their base takes
        return ""
    names, starred = [], False
    for p in found:
        if p.name.startswith("_"):
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            names.append("*")
            starred = True
        starred |= p.kind is p.VAR_POSITIONAL
        names.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name)
    return f"({', '.join(names)})"


def python_names():
    """Functions with their parameters, classes with their members, constants."""
    for full, thing in public():
        if isinstance(thing, type) and thing.__name__ != full.split(".")[-1]:
            yield f"{full} = {thing.__name__}"
            continue
        yield f"{full}{parameters(thing) if callable(thing) else ''}"
        if isinstance(thing, type):
            for member in members(thing):
                method = getattr(thing, member, None)
                yield f"{full}.{member}{parameters(method) if callable(method) else ''}"


def members(kind):
    """Public attributes and methods that a class has from classes of these packages."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("spade_")]
    names = {name for base in ours for name in [*vars(base), *inspect.get_annotations(base)]}
    return sorted(name for name in names if not name.startswith("_"))


def c_names(header):
    """Functions, types and constants that a header declares."""
    text = (ROOT / "csrc" / "include" / "spade" / header).read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    constants = re.findall(r"^\s+(SPADE_\w+) =|^#define (SPADE_VERSION\w*)", code, re.M)
    functions = re.findall(r"\b(spade_\w+)\(", code)
    types = re.findall(r"^} (spade_\w+);|\(\*(spade_\w+)\)\(", code, re.M)
    names = {*functions, *("".join(c) for c in constants), *("".join(t) for t in types)}
    return (f"{header} {name}" for name in sorted(names))


def command_names(command, path="spade-xai"):
    """Commands with their arguments and options."""
    inside = getattr(command, "commands", None)
    if inside is not None:
        for name in sorted(inside):
            yield from command_names(inside[name], f"{path} {name}")
        return
    for parameter in sorted(command.params, key=lambda p: str(p.name)):
        options = " ".join([*parameter.opts, *parameter.secondary_opts])
        if options != "--help":
            is_option = options.startswith("-")
            yield f"{path} {options if is_option else str(parameter.name).upper()}"


def public_names():
    """All of them, one per line."""
    lines = list(python_names())
    lines += [line for header in HEADERS for line in c_names(header)]
    for name in sorted(ENTRIES):
        lines += command_names(loaded(name), f"spade-xai {name}")
    return "".join(f"{line}\n" for line in lines)


def test_listed_names_are_there_as_they_are_listed():
    there = set(public_names().splitlines())
    missing = [line for line in LIST.read_text().splitlines() if line not in there]
    assert not missing, (
        "public names that are listed are not there, or have other parameters:\n"
        + "\n".join(missing)
        + "\nIf this is intended: python tests/docs/test_names.py"
    )


if __name__ == "__main__":
    LIST.write_text(public_names())
