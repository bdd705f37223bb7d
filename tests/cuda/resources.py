"""Registers, shared memory and spills of every CUDA kernel, as ptxas reports them for each target.

`python tests/cuda/resources.py` compiles the sources whose text has changed since the committed table
docs/cuda-resources.json was written, prints what differs and exits 1 on a regression: a spill or a local array in
a kernel that had none. `--write` also writes the table. nvcc: `--nvcc`, CUDACXX or PATH.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
TABLE = ROOT / "docs" / "cuda-resources.json"
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90")
COLUMNS = ("registers", "shared", "stack", "spill_stores", "spill_loads")

_ENTRY = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r"\s+ptxas info\s*: Used (\d+) registers(.*)"
)


def find_nvcc() -> str | None:
    """Path of nvcc from CUDACXX or PATH."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def nvcc_version(nvcc: str) -> str:
    """Release of the compiler, as 13.0.88."""
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"V(\d+\.\d+\.\d+)", text)[1]


def parse(log: str) -> dict[str, list[int]]:
    """Kernels and their COLUMNS from the text of -Xptxas -v."""
    kernels = {}
    for name, stack, stores, loads, registers, rest in _ENTRY.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        kernels[name] = [int(registers), int(shared[1]) if shared else 0]
        kernels[name] += [int(stack), int(stores), int(loads)]
    return kernels


def demangle(names: list[str]) -> list[str]:
    """Kernel names with their template arguments, without namespace and parameters."""
    if not names:
        return []
    text = subprocess.run(["c++filt", *names], check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\(anonymous namespace\)::", "", text)
    return [re.sub(r"\w+::|^void |(?<=[\w>])\(.*", "", line) for line in text.splitlines()]


def compile_source(nvcc: str, source: Path, target: str) -> dict[str, list[int]]:
    """Resources of one source's kernels on one target."""
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch={target}", "-Xptxas", "-v"]
    command += ["-I", str(SOURCES), "-I", str(SOURCES / "include"), str(source)]
    with tempfile.TemporaryDirectory() as folder:  # nvcc removes its output if it fails
        command += ["-o", str(Path(folder) / "kernels.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source.name} for {target}:\n{done.stderr}")
    kernels = parse(done.stderr + done.stdout)
    return dict(zip(demangle(list(kernels)), kernels.values(), strict=True))


def digest(source: Path) -> str:
    """Hash of a source and all it includes from csrc; nvcc does not see the emulation."""
    seen: set[Path] = set()
    todo = [source]
    while todo:
        path = todo.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        names = re.findall(r'#include "([^"]+)"', path.read_text())
        todo += [SOURCES / name for name in names if not name.startswith("cuda/emulation")]
    text = "".join(path.read_text() for path in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stale(table: dict) -> list[Path]:
    """Sources that have changed since the table was written."""
    return [
        source
        for source in sorted((SOURCES / "cuda").glob("*.cu"))
        if table["sources"].get(source.name, {}).get("digest") != digest(source)
    ]


def measure(nvcc: str, sources: list[Path]) -> dict:
    """Entries of the table for these sources."""
    jobs = [(source, target) for source in sources for target in TARGETS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: compile_source(nvcc, *job), jobs))
    entries: dict = {s.name: {"digest": digest(s), "kernels": {}} for s in sources}
    for (source, target), kernels in zip(jobs, results, strict=True):
        for name, values in kernels.items():
            entries[source.name]["kernels"].setdefault(name, {})[target] = values
    return entries


def spilling(entries: dict) -> dict[str, list[int]]:
    """Kernels with a stack or spills, by source, kernel and target."""
    return {
        f"{source} {name} {target}": values
        for source, entry in entries.items()
        for name, targets in entry["kernels"].items()
        for target, values in targets.items()
        if any(values[2:])
    }


def regressions(table: dict, entries: dict) -> list[str]:
    """What has become worse: kernels that spill and did not."""
    known = spilling(table["sources"])
    return [
        f"{key}: {dict(zip(COLUMNS, values, strict=True))}"
        for key, values in spilling(entries).items()
        if sum(values[2:]) > sum(known.get(key, [0])[2:])
    ]


def read() -> dict:
    """The committed table."""
    if not TABLE.exists():
        return {"nvcc": "", "columns": list(COLUMNS), "sources": {}}
    return json.loads(TABLE.read_text())


def write(table: dict) -> None:
    """Write the table with one line a kernel and target."""
    text = json.dumps(table, indent=1, sort_keys=True)
    text = re.sub(r"\[\s+([^\]]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    temporary = TABLE.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(TABLE)


def main(arguments: list[str] | None = None) -> int:
    """Check, and with --write update, the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default=find_nvcc())
    parser.add_argument("--write", action="store_true", help="write the table")
    options = parser.parse_args(arguments)
    if not options.nvcc:
        parser.error("no nvcc: give --nvcc, CUDACXX or PATH")
    table = read()
    version = nvcc_version(options.nvcc)
    sources = sorted((SOURCES / "cuda").glob("*.cu"))
    changed = stale(table) if version == table["nvcc"] else sources
    entries = measure(options.nvcc, changed)
    worse = regressions(table, entries)
    print("\n".join(worse) or f"no regression in {[source.name for source in changed]}")
    if options.write:
        kept = {s.name: table["sources"][s.name] for s in sources if s not in changed}
        write({"nvcc": version, "columns": list(COLUMNS), "sources": kept | entries})
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
