"""The measurements whose results are committed and shown in the documents, one command each, the longest last."""

RESULTS = "benchmarks/results"
SHOWN = {
    "mobilenet_v2-exact": "latency spade-mobilenet_v2-1024 --mode full",
    "resnet50-fast-128": "latency fastspade-resnet50-128 --mode full",
    "resnet50-fast-1024": "latency fastspade-resnet50 --mode full",
    "resnet50-exact": "latency spade-resnet50 --mode sampled --rows 0.05 --augmentations 512",
    "others-sampled": (
        "latency fastspade-resnet50-layer4 fastspade-resnet50-layer4-128 batched-resnet50 "
        "spade-convnext_tiny spade-mobilenet_v2 --mode sampled --rows 0.02 --augmentations 128"
    ),
    "quick": "quick",
    "resnet50-exact-all-rows": "latency spade-resnet50 --mode sampled --rows 1 --augmentations 512",
}


def command_of(name: str) -> str:
    """The command of a measurement, from the root of a checkout."""
    target = f"{RESULTS}/{name}.json" if SHOWN[name].startswith("latency") else RESULTS
    return f"python -m benchmarks {SHOWN[name]} --output {target}"
