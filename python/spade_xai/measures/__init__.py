"""Measures of maps and traces, and the baselines that they are set beside."""
