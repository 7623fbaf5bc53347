"""Analyses of a trained mask model, as in the MaX-DeepLab paper, 4.3 and A.3 to A.5."""
