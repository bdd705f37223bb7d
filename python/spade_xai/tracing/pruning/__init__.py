"""Pruning methods: one class per file. A module of this folder that defines a PruningMethod is found by itself."""
