"""The parts that the GPU suite runs in, each a few minutes at most and with a result file of its own: gpu-PART.json."""

from benchmarks.configurations import configurations

MOST_AUGMENTATIONS = 1024  # of the first part of the traces
_FILES = {
    "goals": ["cuda_goals"],
    "hessian": ["forward", "hessian", "cuda_hessian"],
    "pruning": ["inverse", "obc", "cuda_obc", "sparsegpt"],
    "scaling": ["scaling"],
    "traces": ["trace"],
    "long-traces": ["trace"],
}
PARTS = tuple(_FILES)


def files_of(part: str) -> list[str]:
    """Benchmark files of a part."""
    return [f"bench_{name}.py" for name in _FILES[part]]


def options_of(part: str, check: bool) -> list[str]:
    """Options of pytest for a part: which configurations its traces are of; in check mode the suite's own choice."""
    if check or not part.endswith("traces"):
        return []
    long = part == "long-traces"
    chosen = [
        x for x in configurations().values() if (x.augmentations > MOST_AUGMENTATIONS) == long
    ]
    return [f"--configuration={x.name}" for x in chosen]
