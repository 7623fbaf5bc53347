"""Synthetic inputs and isolated parts of the library, for evaluation/benchmark.py."""
