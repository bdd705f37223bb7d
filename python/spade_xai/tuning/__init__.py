"""Tuning of the sparsity of each layer on calibration samples."""
