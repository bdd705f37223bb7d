"""The sparsities that the paper and its code state, by name: `sparsity="paper:NAME"`."""

PUBLISHED: dict[str, dict[str, float]] = {
    # Appendix K: what the raters of the study saw.
    "human-study": {"layer4": 0.99},
    # Figure J.11, class visualisations: from the released notebook.
    "figure-j11": {"layer3.4": 0.95, "layer3.5": 0.95, "layer4": 0.95, "fc": 0.95},
    # FastSPADE with LRP on ResNet50, tuned: the one table of ratios that was released. conv1 stays dense.
    "resnet50-lrp-fast": {
        "layer1.0": 0.2,
        "layer1.1": 0.8,
        "layer1.2": 0.0,
        "layer2.0": 0.2,
        "layer2.1": 0.0,
        "layer2.2": 0.99,
        "layer2.3": 0.95,
        "layer3.0": 0.8,
        "layer3.1": 0.8,
        "layer3.2": 0.9,
        "layer3.3": 0.8,
        "layer3.4": 0.0,
        "layer3.5": 0.0,
        "layer4": 0.95,
        "fc": 0.95,
    },
}
"""Name -> ratio of each pattern of layers of a torchvision ResNet; layers that no pattern takes stay dense."""
