"""Write the types of the binding, _C.pyi: those that stand here, and those that follow from spade.h.

The build runs it and puts the file beside the compiled module: python csrc/python/stub.py FILE.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = HERE.parent / "include" / "spade" / "spade.h"


def declared() -> Iterator[str]:
    """Types of what SPADE_BIND binds, from the declarations of the header."""
    code = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    sources = "".join(path.read_text() for path in sorted(HERE.glob("*.cpp")))
    for name in re.findall(r"SPADE_BIND\(module, (\w+)\)", sources):
        (parameters,) = re.findall(rf"\bspade_{name}_f32\((.*?)\);", code, re.S)
        arguments = ", ".join(map(argument, parameters.split(",")))
        yield f"\ndef {name}_f32({arguments}) -> None: ...\n\n{name}_f64 = {name}_f32\n"


def argument(declaration: str) -> str:
    """An argument of C as Python gives it."""
    found = re.fullmatch(r"\s*(.*?)(\w+)\s*", declaration, re.S)
    if found is None:
        raise SystemExit(f"{HEADER}: cannot read the argument {declaration!r}")
    types, name = found.groups()
    if "spade_progress_t" in types:
        return f"{name}: object"
    return f"{name}: {'float' if 'double' in types and '*' not in types else 'int'}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("".join([(HERE / "_C.pyi").read_text(), *declared()]))
