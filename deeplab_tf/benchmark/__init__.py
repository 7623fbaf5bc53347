"""Synthetic inputs and parts of the library by themselves, for evaluation/benchmark.py."""
