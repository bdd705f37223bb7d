"""Registers, shared memory and spills of every CUDA kernel, as ptxas reports them for each target.

`python tests/cuda/resources.py` compiles the sources whose text has changed since the committed table
docs/cuda-resources.json was written, prints what differs and exits 1 on a regression: a kernel spills more than it did,
or a multiprocessor holds fewer of its blocks. `--write` also writes the table. nvcc: `--nvcc`, CUDACXX or PATH.
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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
TABLE = ROOT / "docs" / "cuda-resources.json"
COLUMNS = ("registers", "shared", "stack", "spill_stores", "spill_loads")


class Multiprocessor(NamedTuple):
    """What the blocks on one multiprocessor share, beside 65536 registers in four parts.

    Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
    """

    threads: int
    blocks: int
    shared: int  # bytes; each block takes 1 KB more than it asks for


TARGETS = {
    "sm_80": Multiprocessor(2048, 32, 164 << 10),
    "sm_86": Multiprocessor(1536, 16, 100 << 10),
    "sm_89": Multiprocessor(1536, 24, 100 << 10),
    "sm_90": Multiprocessor(2048, 32, 228 << 10),
}


class Launch(NamedTuple):
    """What the code of a kernel tells of its launches."""

    threads: int  # of a block, at most
    dynamic: bool  # whether the launch adds shared memory


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


def parse_launches(ptx: str) -> dict[str, Launch]:
    """Kernels and their launches from PTX text; without launch bounds a block may have 1024 threads."""
    launches = {}
    for entry in re.split(r"\.entry ", ptx)[1:]:
        bounds = re.search(r"\.maxntid (\d+)", entry.split("{")[0])
        dynamic = "spade_dynamic_shared" in entry
        launches[re.match(r"\w+", entry)[0]] = Launch(int(bounds[1]) if bounds else 1024, dynamic)
    return launches


def demangle(names: list[str]) -> list[str]:
    """Kernel names with their template arguments, without namespace and parameters."""
    if not names:
        return []
    text = subprocess.run(["c++filt", *names], check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\(anonymous namespace\)::", "", text)
    return [re.sub(r"\w+::|^void |(?<=[\w>])\(.*", "", line) for line in text.splitlines()]


def compile_source(
    nvcc: str, source: Path, target: str
) -> tuple[dict[str, list[int]], dict[str, Launch]]:
    """Resources and launches of one source's kernels on one target."""
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch={target}", "-Xptxas", "-v"]
    command += ["-I", str(SOURCES), "-I", str(SOURCES / "include"), str(source)]
    with tempfile.TemporaryDirectory() as folder:  # nvcc removes its output if it fails
        command += ["-o", str(Path(folder) / "kernels.cubin"), "--keep", "--keep-dir", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} for {target}:\n{done.stderr}")
        launches = parse_launches((Path(folder) / f"{source.stem}.ptx").read_text())
    kernels = parse(done.stderr + done.stdout)
    names = demangle(list(kernels))
    of_kernels = [launches[name] for name in kernels]
    return dict(zip(names, kernels.values(), strict=True)), dict(
        zip(names, of_kernels, strict=True)
    )


def digest(source: Path) -> str:
    """Hash of a source and all it includes from csrc, but for comments; nvcc does not see the emulation."""
    seen: set[Path] = set()
    todo = [source]
    while todo:
        path = todo.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        names = re.findall(r'#include "([^"]+)"', path.read_text())
        todo += [SOURCES / name for name in names if not name.startswith("cuda/emulation")]
    text = "".join(re.sub(r"//.*", "", path.read_text()) for path in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stale(table: dict) -> list[Path]:
    """Sources that have changed since the table was written."""
    return [
        source
        for source in sorted((SOURCES / "cuda").glob("*.cu"))
        if table["sources"].get(source.name, {}).get("digest") != digest(source)
    ]


def measure(nvcc: str, sources: list[Path]) -> dict:
    """Entries of the table for these sources: digest, kernels by target, launches."""
    jobs = [(source, target) for source in sources for target in TARGETS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: compile_source(nvcc, *job), jobs))
    entries: dict = {s.name: {"digest": digest(s), "kernels": {}, "launches": {}} for s in sources}
    for (source, target), (kernels, launches) in zip(jobs, results, strict=True):
        entries[source.name]["launches"] |= launches
        for name, values in kernels.items():
            entries[source.name]["kernels"].setdefault(name, {})[target] = values
    return entries


def resident_blocks(target: str, values: list[int], launch: Launch) -> int:
    """Blocks that a multiprocessor holds at once; shared memory that launches add is not counted."""
    registers, shared = values[:2]
    limits = TARGETS[target]
    warps = -(-launch.threads // 32)
    of_a_warp = -(-registers // 8) * 8 * 32
    return min(
        4 * ((65536 // 4) // of_a_warp) // warps,
        limits.shared // (shared + 1024),
        limits.threads // (32 * warps),
        limits.blocks,
    )


def spilling(entries: dict) -> dict[str, list[int]]:
    """Kernels with a stack or spills, by source, kernel and target."""
    return {
        f"{source} {name} {target}": values
        for source, entry in entries.items()
        for name, targets in entry["kernels"].items()
        for target, values in targets.items()
        if any(values[2:])
    }


def crowding(known: dict, entries: dict) -> list[str]:
    """Kernels of which a multiprocessor holds fewer blocks, or may, as they leave launches less shared memory."""
    worse = []
    for source, entry in entries.items():
        before = known.get(source, {}).get("kernels", {})
        for name, targets in entry["kernels"].items():
            launch = Launch(*entry["launches"][name])
            for target, values in targets.items():
                old = before.get(name, {}).get(target)
                if old is None:
                    continue
                blocks, held = (resident_blocks(target, v, launch) for v in (values, old))
                if blocks < held or (launch.dynamic and values[1] > old[1]):
                    changed = ", ".join(
                        f"{column} {a} -> {b}"
                        for column, a, b in zip(COLUMNS[:2], old, values, strict=False)
                    )
                    worse.append(f"{source} {name} {target}: blocks {held} -> {blocks}, {changed}")
    return worse


def regressions(table: dict, entries: dict) -> list[str]:
    """What has become worse: kernels that spill more than they did, or of which fewer blocks run at once."""
    known = spilling(table["sources"])
    return [
        f"{key}: {dict(zip(COLUMNS, values, strict=True))}"
        for key, values in spilling(entries).items()
        if sum(values[2:]) > sum(known.get(key, [0])[2:])
    ] + crowding(table["sources"], entries)


def read() -> dict:
    """The committed table."""
    if not TABLE.exists():
        return {"nvcc": "", "columns": list(COLUMNS), "sources": {}}
    return json.loads(TABLE.read_text())


def write(table: dict) -> None:
    """Write the table with one line per kernel and target."""
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
