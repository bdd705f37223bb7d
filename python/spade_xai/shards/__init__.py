"""Evaluations of more images than fit in memory: in shards, each a Parquet file, on one machine or many."""
