"""What is in folders of results, without times and what depends on them."""

import json
from pathlib import Path

from safetensors import safe_open

_TIMED = ("seconds", "digest", "run", "seconds_in_all")


def contents(folder):
    """The files in a folder by name; of pages only that they are there."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found[name] = tensors(path)
        elif path.suffix == ".json":
            value = json.loads(path.read_text())
            value = value.get("record", value)
            found[name] = {k: v for k, v in value.items() if k not in _TIMED}
        elif path.suffix == ".html":
            found[name] = path.read_text().count("data:image/png")
        else:
            found[name] = path.read_bytes()
    return found


def tensors(path):
    """Tensors of a file, and the reports of layers among its metadata."""
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name).tolist() for name in file.keys()}
        layers = json.loads((file.metadata() or {}).get("layers", "[]"))
    reports = [{k: v for k, v in layer.items() if k != "seconds"} for layer in layers]
    return held, reports
