"""Native Hessians, exact OBC and batched SparseGPT for PyTorch."""
