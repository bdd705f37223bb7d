"""SPADE: sample-specific pruning for interpretation."""
