"""Scores at other input sizes: the scale stress test of the Axial-DeepLab paper."""
