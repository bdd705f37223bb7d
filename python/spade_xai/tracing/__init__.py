"""Traces: a model pruned for one sample, from its augmentations to a file."""
