"""Every op in plain PyTorch, any float dtype: the oracle of the tests and the baseline of the benchmarks."""
